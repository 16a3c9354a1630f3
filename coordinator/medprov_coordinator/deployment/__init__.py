"""The coordinator as a service: SuperLink over TLS, certificates, app bundle, enrolment, and the watch over them."""
