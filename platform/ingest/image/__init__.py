"""What a picture's pixels show beside the patient: a collimated field, burned-in text, a copy of another picture."""
