//! The client half used by tests and load generators: ICE controlling, DTLS client, SRTP, SCTP.
