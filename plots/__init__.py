"""The pictures: they read run folders, never a model. numpy and matplotlib only."""
