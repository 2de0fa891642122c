//! Parts that tests share: upstreams that record bytes, real programs, leftovers.
