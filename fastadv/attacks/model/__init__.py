"""What is attacked: networks left as they were found, and copies made to be attacked."""
