"""Deep feature inversion (Section 3.2): an image of one colour that looks to a layer like a natural image."""
