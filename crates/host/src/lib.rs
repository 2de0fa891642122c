//! Makes an ordinary process a workload: namespace, capture, DNS, supervision.
