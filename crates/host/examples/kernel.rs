//! The producer in the kernel, for whoever measures it: prints the path of a socket, answers there, ends with its input.
//! Where the kernel may not be asked, it says why and ends at once.

#[path = "../tests/trace/kernel.rs"]
mod kernel;

fn main() {
    if let Some(served) = kernel::Served::new() {
        println!("{}", served.path());
        // However it ends.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    }
}
