//! Answers harmony requests on standard input: what the command `ossmith harmony` does.

fn main() -> std::io::Result<()> {
    ossmith_harmony::serve_lines(
        std::io::stdin().lock(),
        std::io::BufWriter::new(std::io::stdout().lock()),
    )
}
