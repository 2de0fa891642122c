//! One record per request; every label, log field and span attribute derives from it.
