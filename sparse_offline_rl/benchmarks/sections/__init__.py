"""What is measured and laid out in tables, a file a section."""
