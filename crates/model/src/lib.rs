//! What the mesh is told, what a proxy runs, and the pure semantics of both.
