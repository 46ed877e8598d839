//! `sanafarm token`: who may call a coordinator.

mod authority;
mod file;

use sanafarm_coordinator::{Coordinator, Database};
use sanafarm_net::{Channel, Secret};
use sanafarm_proto::v1::token_service_client::TokenServiceClient;
use sanafarm_proto::v1::{
    CreateTokenRequest, ListTokensRequest, RevokeTokenRequest, Role, RotateTokenRequest, Token,
};
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::args::{
    CaVerb, TokenArgs, TokenCreateArgs, TokenListArgs, TokenPlaceArgs, TokenRevokeArgs, TokenRotateArgs,
    TokenVerb,
};
use crate::connect::{Connection, Place};
use crate::data_folder::DataFolder;
use crate::error::{Error, Exit};
use crate::printer::{Printer, Table};

use file::TokenFile;

/// Runs one of its verbs.
pub async fn run(args: TokenArgs, printer: &Printer) -> Result<Exit, Error> {
    match args.verb {
        TokenVerb::Create(args) => create(args, printer).await,
        TokenVerb::List(args) => list(args, printer).await,
        TokenVerb::Revoke(args) => revoke(args, printer).await,
        TokenVerb::Rotate(args) => rotate(args, printer).await,
        TokenVerb::Ca(CaVerb::Init(args)) => authority::init(args, printer),
        TokenVerb::Ca(CaVerb::Issue(args)) => authority::issue(args, printer),
    }
}

async fn create(args: TokenCreateArgs, printer: &Printer) -> Result<Exit, Error> {
    // Before there is a token that could not be told.
    let file = args.output.as_deref().map(TokenFile::new).transpose()?;
    let mut tokens = Tokens::open(args.place).await?;
    let request = CreateTokenRequest {
        name: args.name,
        role: Role::from(args.role).into(),
        owner: args.owner.unwrap_or_default(),
        worker: args.worker.unwrap_or_default(),
        expires_at: args
            .expires
            .map(|at| prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }),
    };
    let created = tokens.client.create_token(request).await;
    let created = created.map_err(|status| failed("create a token".to_owned(), &status))?.into_inner();
    tell(created.token, created.secret, file, args.json, printer)?;
    tokens.close().await;
    Ok(Exit::Success)
}

async fn list(args: TokenListArgs, printer: &Printer) -> Result<Exit, Error> {
    let mut tokens = Tokens::open(args.place).await?;
    let listed = tokens.client.list_tokens(ListTokensRequest {}).await;
    let listed = listed.map_err(|status| failed("list tokens".to_owned(), &status))?.into_inner().tokens;
    if args.json {
        for token in &listed {
            printer.data(token_json(token))?;
        }
    } else {
        let mut table = Table::on_stdout(&[
            "token",
            "name",
            "role",
            "owner",
            "worker",
            "created",
            "last used",
            "expires",
            "revoked",
        ]);
        let time = |time: &Option<prost_types::Timestamp>| {
            time.as_ref().map(ToString::to_string).unwrap_or_default()
        };
        for token in &listed {
            table.row(vec![
                token.token_id.clone(),
                token.name.clone(),
                role_word(token.role()).to_owned(),
                token.owner.clone(),
                token.worker.clone(),
                time(&token.created_at),
                time(&token.last_used_at),
                time(&token.expires_at),
                time(&token.revoked_at),
            ])?;
        }
        table.finish()?;
    }
    tokens.close().await;
    Ok(Exit::Success)
}

async fn revoke(args: TokenRevokeArgs, printer: &Printer) -> Result<Exit, Error> {
    let mut tokens = Tokens::open(args.place).await?;
    let revoked = tokens.client.revoke_token(RevokeTokenRequest { token_id: args.id.clone() }).await;
    revoked.map_err(|status| failed(format!("revoke token {}", args.id), &status))?;
    printer.note(format!("token {} is revoked", args.id));
    tokens.close().await;
    Ok(Exit::Success)
}

async fn rotate(args: TokenRotateArgs, printer: &Printer) -> Result<Exit, Error> {
    let file = args.output.as_deref().map(TokenFile::over).transpose()?;
    let mut tokens = Tokens::open(args.place).await?;
    let request = RotateTokenRequest { token_id: args.id.clone(), grace_seconds: args.grace.as_secs() };
    let rotated = tokens.client.rotate_token(request).await;
    let rotated =
        rotated.map_err(|status| failed(format!("rotate token {}", args.id), &status))?.into_inner();
    tell(rotated.token, rotated.secret, file, args.json, printer)?;
    tokens.close().await;
    Ok(Exit::Success)
}

/// The one time that a token is told.
fn tell(
    token: Option<Token>,
    secret: String,
    file: Option<TokenFile>,
    json: bool,
    printer: &Printer,
) -> Result<(), Error> {
    let token = token.unwrap_or_default();
    let (id, name) = (&token.token_id, &token.name);
    let mut object = token_json(&token);
    match file {
        Some(file) => {
            let place = file.path().display().to_string();
            file.write(&secret, id)?;
            if !json {
                printer.note(format!("token {id} for {name} is in {place}"));
                return Ok(());
            }
            object["file"] = json!(place);
        }
        None if json => object["token"] = json!(secret),
        None => {
            printer.note(format!("token {id} for {name}: keep it, it is not told again"));
            return printer.data(secret);
        }
    }
    printer.data(object)
}

fn token_json(token: &Token) -> Value {
    let time = |time: &Option<prost_types::Timestamp>| time.as_ref().map(ToString::to_string);
    let filled = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    json!({
        "token_id": token.token_id,
        "name": token.name,
        "role": role_word(token.role()),
        "owner": filled(&token.owner),
        "worker": filled(&token.worker),
        "created_at": time(&token.created_at),
        "created_by": filled(&token.created_by),
        "expires_at": time(&token.expires_at),
        "last_used_at": time(&token.last_used_at),
        "rotated_at": time(&token.rotated_at),
        "revoked_at": time(&token.revoked_at),
    })
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "",
        Role::Admin => "admin",
        Role::Submit => "submit",
        Role::Read => "read",
        Role::Worker => "worker",
    }
}

fn failed(what: String, status: &Status) -> Error {
    let error = Error::call(what, status);
    match status.code() {
        Code::NotFound => error.hint("`sanafarm token list` lists tokens"),
        Code::Unauthenticated | Code::PermissionDenied => {
            error.hint("name an admin's token with --token-file, or the database with --data or --database")
        }
        Code::Unimplemented => error.hint("the coordinator is older than this program"),
        _ => error,
    }
}

/// The tokens of a farm: behind its coordinator, or in its database.
struct Tokens {
    client: TokenServiceClient<Channel>,
    connection: Option<Connection>,
    /// In this process, over the database.
    local: Option<Coordinator>,
}

impl Tokens {
    async fn open(place: TokenPlaceArgs) -> Result<Self, Error> {
        if let Some(address) = place.coordinator {
            let place = Place { coordinator: Some(address), data: None, access: place.access.into() };
            let connection = Connection::farm(place).await?;
            let client = TokenServiceClient::new(connection.channel.clone());
            return Ok(Self { client, connection: Some(connection), local: None });
        }
        let database = database(place.database, place.data)?;
        let failed = |error: sanafarm_coordinator::Error| {
            Error::failure("open the database of the tokens").caused_by(&error)
        };
        let coordinator = Coordinator::open_for_tokens(database).await.map_err(failed)?;
        let channel = coordinator.local_channel().await.map_err(failed)?;
        Ok(Self {
            client: TokenServiceClient::new(channel.into()),
            connection: None,
            local: Some(coordinator),
        })
    }

    async fn close(self) {
        drop(self.client);
        if let Some(connection) = self.connection {
            connection.close().await;
        }
        if let Some(coordinator) = self.local {
            coordinator.close().await;
        }
    }
}

/// The first token of a farm is made before its coordinator is started: its folder may not be there yet.
fn database(url: Option<Secret>, data: Option<std::path::PathBuf>) -> Result<Database, Error> {
    if let Some(url) = url {
        return Ok(Database::Server(url.expose().to_owned()));
    }
    let data = DataFolder::choose(data);
    data.create()?;
    Ok(Database::File(data.database()))
}
