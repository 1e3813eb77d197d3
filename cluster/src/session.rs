//! Sessions of whoever sets databases up.

use tokio_postgres::{Client, Connection, Error, NoTls, Socket, tls::NoTlsStream};

/// Opens a session in which defaults of the database and of the role don't count, for `schema check` and `schema apply`.
///
/// # Errors
/// If the connection string is none, or nobody answers there.
pub(crate) async fn connect(database: &str) -> Result<(Client, Connection<Socket, NoTlsStream>), Error> {
    let mut settings: tokio_postgres::Config = database.parse()?;
    let options = rootward_worker::behind_defaults(settings.get_options().unwrap_or_default());
    settings.options(options).connect(NoTls).await
}
