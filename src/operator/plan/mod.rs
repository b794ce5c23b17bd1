//! Pure: validated resources -> the full list of desired objects.
