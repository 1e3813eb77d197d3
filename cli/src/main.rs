//! The program `rootward`; everything is in the library, so that tests can build a program of their own from it.

fn main() -> std::process::ExitCode {
    rootward::main()
}
