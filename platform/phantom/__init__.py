"""Generated studies, ultrasound frames and CT/MRI volumes whose truth is known."""
