//! Rates, keys and screens.
