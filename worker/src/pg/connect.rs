//! Opens a connection: hosts in order, TLS, authentication, the server's parameters.

use std::{collections::HashMap, io, path::Path, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use postgres_protocol::{
    authentication::{self, sasl},
    message::{
        backend::{self, Message},
        frontend,
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};
use tokio_postgres::config::{Config, Host, SslMode, TargetSessionAttrs};

use super::{connection::Connection, pipeline::ServerError, silence};

/// How long one host may take, if the connection string doesn't say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What a connection needs of a stream.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("can't reach the server: {0}")]
    Io(#[from] io::Error),
    #[error("{}", .0.message)]
    Server(ServerError),
    #[error("the server asks for {0}, which is not supported")]
    Unsupported(&'static str),
    #[error("{0}")]
    Configuration(String),
    #[error("no host is {0}")]
    NoSuchHost(&'static str),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// TLS that trusts the certificates of `ca_file`; none if there is no such file to trust.
fn tls(ca_file: Option<&Path>) -> Result<Option<rustls::ClientConfig>, ConnectError> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let Some(path) = ca_file else { return Ok(None) };
    let unreadable = |why: String| ConnectError::Configuration(format!("`tls_ca_file` {}: {why}", path.display()));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))? {
        let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unreadable(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some(config))
}

/// TLS for connections to the hosts of `config`. Over a Unix socket there is nothing to encrypt, and no name to verify.
pub(crate) fn tls_for(config: &Config, ca_file: Option<&Path>) -> Result<Option<rustls::ClientConfig>, ConnectError> {
    let is_local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
    if is_local { Ok(None) } else { tls(ca_file) }
}

/// Opens a connection to the first host of `config` that takes it.
///
/// # Errors
/// The last host's failure.
pub(crate) async fn connect(config: &Config, tls: Option<&rustls::ClientConfig>) -> Result<Connection, ConnectError> {
    let mut last = ConnectError::Configuration("the connection string names no host".to_owned());
    for (at, host) in config.get_hosts().iter().enumerate() {
        let ports = config.get_ports();
        let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
        let limit = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
        let attempt = connect_host(config, host, port, tls);
        match tokio::time::timeout(limit, attempt).await.unwrap_or(Err(ConnectError::Timeout(limit))) {
            Ok(connection) => return Ok(connection),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_host(config: &Config, host: &Host, port: u16, tls: Option<&rustls::ClientConfig>) -> Result<Connection, ConnectError> {
    let mut stream: Box<dyn Stream> = match host {
        Host::Unix(directory) => Box::new(UnixStream::connect(directory.join(format!(".s.PGSQL.{port}"))).await?),
        Host::Tcp(name) => {
            let socket = TcpStream::connect((name.as_str(), port)).await?;
            socket.set_nodelay(true)?;
            silence::apply(config, &socket)?;
            encrypt(socket, name, config.get_ssl_mode(), tls).await?
        }
    };
    let mut inbox = BytesMut::new();
    start(&mut stream, &mut inbox, config).await?;
    let parameters = wait_until_ready(&mut stream, &mut inbox).await?;
    let is_read_only =
        ["in_hot_standby", "default_transaction_read_only"].iter().any(|name| parameters.get(*name).is_some_and(|value| value == "on"));
    match config.get_target_session_attrs() {
        TargetSessionAttrs::ReadWrite if is_read_only => Err(ConnectError::NoSuchHost("read-write")),
        TargetSessionAttrs::ReadOnly if !is_read_only => Err(ConnectError::NoSuchHost("read-only")),
        _ => Ok(Connection::new(stream, inbox)),
    }
}

async fn encrypt(
    mut socket: TcpStream,
    host: &str,
    mode: SslMode,
    tls: Option<&rustls::ClientConfig>,
) -> Result<Box<dyn Stream>, ConnectError> {
    let wanted = match (mode, tls) {
        (SslMode::Disable, _) | (SslMode::Prefer, None) => return Ok(Box::new(socket)),
        (_, Some(config)) => config.clone(),
        (_, None) => return Err(ConnectError::Configuration("sslmode=require needs `tls_ca_file`".to_owned())),
    };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await?;
    if socket.read_u8().await? != b'S' {
        if mode == SslMode::Prefer {
            return Ok(Box::new(socket));
        }
        return Err(ConnectError::Configuration(format!("server {host} offers no TLS")));
    }
    let name = rustls::pki_types::ServerName::try_from(host.to_owned())
        .map_err(|_| ConnectError::Configuration(format!("`{host}` can't be verified by TLS")))?;
    Ok(Box::new(tokio_rustls::TlsConnector::from(Arc::new(wanted)).connect(name, socket).await?))
}

async fn start(stream: &mut Box<dyn Stream>, inbox: &mut BytesMut, config: &Config) -> Result<(), ConnectError> {
    let user = config.get_user().unwrap_or("rootward_lane");
    let mut parameters = vec![("user", user), ("client_encoding", "UTF8")];
    parameters.extend(config.get_dbname().map(|name| ("database", name)));
    parameters.extend(config.get_options().map(|options| ("options", options)));
    parameters.extend(config.get_application_name().map(|name| ("application_name", name)));
    let mut outbox = BytesMut::new();
    frontend::startup_message(parameters, &mut outbox)?;
    stream.write_all(&outbox).await?;
    let password = || config.get_password().ok_or_else(|| ConnectError::Configuration("the server asks for a password".to_owned()));
    loop {
        outbox.clear();
        match read(stream, inbox).await? {
            Message::AuthenticationOk => return Ok(()),
            Message::AuthenticationCleartextPassword => frontend::password_message(password()?, &mut outbox)?,
            Message::AuthenticationMd5Password(body) => {
                let hash = authentication::md5_hash(user.as_bytes(), password()?, body.salt());
                frontend::password_message(hash.as_bytes(), &mut outbox)?;
            }
            Message::AuthenticationSasl(_) => {
                scram(stream, inbox, password()?).await?;
                continue;
            }
            Message::ErrorResponse(body) => return Err(ConnectError::Server(ServerError::from_fields(body.fields())?)),
            _ => return Err(ConnectError::Unsupported("an authentication method")),
        }
        stream.write_all(&outbox).await?;
    }
}

async fn scram(stream: &mut Box<dyn Stream>, inbox: &mut BytesMut, password: &[u8]) -> Result<(), ConnectError> {
    let mut exchange = sasl::ScramSha256::new(password, sasl::ChannelBinding::unsupported());
    let mut outbox = BytesMut::new();
    frontend::sasl_initial_response(sasl::SCRAM_SHA_256, exchange.message(), &mut outbox)?;
    stream.write_all(&outbox).await?;
    match read(stream, inbox).await? {
        Message::AuthenticationSaslContinue(body) => exchange.update(body.data())?,
        Message::ErrorResponse(body) => return Err(ConnectError::Server(ServerError::from_fields(body.fields())?)),
        _ => return Err(ConnectError::Unsupported("an authentication method")),
    }
    outbox.clear();
    frontend::sasl_response(exchange.message(), &mut outbox)?;
    stream.write_all(&outbox).await?;
    match read(stream, inbox).await? {
        Message::AuthenticationSaslFinal(body) => Ok(exchange.finish(body.data())?),
        Message::ErrorResponse(body) => Err(ConnectError::Server(ServerError::from_fields(body.fields())?)),
        _ => Err(ConnectError::Unsupported("an authentication method")),
    }
}

async fn wait_until_ready(stream: &mut Box<dyn Stream>, inbox: &mut BytesMut) -> Result<HashMap<String, String>, ConnectError> {
    let mut parameters = HashMap::new();
    loop {
        match read(stream, inbox).await? {
            Message::ParameterStatus(body) => {
                parameters.insert(body.name()?.to_owned(), body.value()?.to_owned());
            }
            Message::ReadyForQuery(_) => return Ok(parameters),
            Message::ErrorResponse(body) => return Err(ConnectError::Server(ServerError::from_fields(body.fields())?)),
            _ => {}
        }
    }
}

async fn read(stream: &mut Box<dyn Stream>, inbox: &mut BytesMut) -> io::Result<backend::Message> {
    loop {
        if let Some(message) = Message::parse(inbox)? {
            return Ok(message);
        }
        if stream.read_buf(inbox).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Bytes of one column as text.
pub(super) fn text_of(bytes: &Bytes) -> io::Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| io::Error::other("the server sent text that is not UTF-8"))
}
