"""Runs side by side: one page, one picture or one table of any number of run folders.

make      what was asked for -> the file that shows it
collect   run folders -> what is compared: arms in order, differences, failures
panels    a panel of plots.scene -> shapes with coordinates, for the page
page      all of it -> one HTML file without a single request (page.html, page.css, page.js)
table     all of it -> numbers as CSV
"""
