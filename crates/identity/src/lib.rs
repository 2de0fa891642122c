//! SPIFFE names, keys, the CA and its rotation, rustls configurations.
