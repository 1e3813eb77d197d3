//! `rootward` under another name: the tests need a path to it, and Cargo gives one only for programs of their package.

fn main() -> std::process::ExitCode {
    rootward::main()
}
