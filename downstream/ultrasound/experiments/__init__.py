"""The five zero-shot experiments (same-domain, cross-domain, noise, assess, scatter), and masks for new frames."""
