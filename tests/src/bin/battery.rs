//! The long tests: the full matrix of kill points and random runs.

fn main() {}
