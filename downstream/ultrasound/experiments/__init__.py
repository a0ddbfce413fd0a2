"""The five zero-shot experiments: same-domain, cross-domain, noise, assess and scatter."""
