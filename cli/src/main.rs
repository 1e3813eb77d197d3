//! The program `rootward`; everything is in the library, so that tests can build a program of their own from it.

/// glibc's allocator took a fifth of a worker's time under load.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    rootward::main()
}
