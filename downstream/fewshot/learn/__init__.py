"""Training an encoder on superpixel episodes, and on the test slice itself (test-time training)."""
