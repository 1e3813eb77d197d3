//! One value from the page that a router or worker shows to Prometheus.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// How long a page may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Why there is no value.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The page can't be read.
    #[error("the page of metrics at {page}")]
    Io {
        /// Its address.
        page: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It was read, and does not hold the value.
    #[error("the page of metrics at {page} has no `{name}`")]
    NoValue {
        /// Its address.
        page: String,
        /// The value that was looked for.
        name: String,
    },
}

/// The sum of all values of this name, whatever their labels, on the page at `http://HOST:PORT/PATH`.
///
/// # Errors
/// [`PageError`].
pub async fn metric(page: &str, name: &str) -> Result<f64, PageError> {
    let text = timeout(LIMIT, read(page)).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    let text = text.map_err(|source| PageError::Io { page: page.to_owned(), source })?;
    sum(&text, name).ok_or_else(|| PageError::NoValue { page: page.to_owned(), name: name.to_owned() })
}

async fn read(page: &str) -> std::io::Result<String> {
    let parts = page.strip_prefix("http://").and_then(|rest| rest.split_once('/'));
    let (address, path) = parts.ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut connection = TcpStream::connect(address).await?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn sum(text: &str, name: &str) -> Option<f64> {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with(['{', ' ']) {
            return None;
        }
        rest.rsplit_once(' ')?.1.trim().parse::<f64>().ok()
    };
    text.lines().filter_map(value).reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_one_name_are_added_up() {
        let page = "# TYPE a counter\na_total{x=\"1 2\"} 3\na_total{x=\"2\"} 4\na_total_more 9\nb_total 5\n# EOF\n";
        assert_eq!((sum(page, "a_total"), sum(page, "b_total"), sum(page, "a")), (Some(7.0), Some(5.0), None));
    }
}
