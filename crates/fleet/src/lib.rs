//! The instances of many functions: started, lent out, reaped, within the limits of the host.
