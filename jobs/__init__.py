"""Everything true of a job, whichever process touches it."""
