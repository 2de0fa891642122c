//! The control plane: source, store, compile, push, the CA service, status.
