"""What prompts are filled with: files, PDFs, generated prose; and where sentences end."""
