"""What all public calls share: keywords, progress bars, words, missing extras, pictures."""
