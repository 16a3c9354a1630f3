"""The hospital's part in the training: enrolment, the connection to the coordinator, and what may run for it."""
