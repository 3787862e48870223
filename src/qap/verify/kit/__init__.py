"""What the tests of every suite are made of."""
