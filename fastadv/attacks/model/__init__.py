"""Networks under attack: called and left as they were found, or copied to be attacked sooner."""
