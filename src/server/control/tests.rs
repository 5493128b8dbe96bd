//! Commands over a real socket.

use super::*;

async fn ask_in(dir: &Path, command: Command) -> Result<Option<String>> {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || request(&dir, &command))
        .await
        .unwrap()
}

fn remove(id: &str) -> Command {
    Command::Remove(id.to_owned())
}

async fn handler(command: Command) -> Result<String> {
    match command {
        Command::Remove(id) if id == "known" => Ok("removed\nknown".to_owned()),
        Command::Remove(id) => {
            Err(Error::new(Kind::ObjectNotFound).public(format!("no object {id}")))
        }
        Command::Name => Ok("its name".to_owned()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_commands_under_long_path() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("d".repeat(120)).join("e".repeat(120));
    assert_eq!(
        ask_in(&dir, remove("known")).await.unwrap(),
        None,
        "no directory"
    );
    fs::create_dir_all(&dir).unwrap();
    assert_eq!(
        ask_in(&dir, remove("known")).await.unwrap(),
        None,
        "no socket"
    );
    // What a killed server leaves behind: nobody listens, and the next server takes its place.
    let killed = UnixSocket::new_stream().unwrap();
    let (_dir, address) = address_in(&dir).unwrap();
    killed.bind(address).unwrap();
    drop(killed);
    assert_eq!(
        ask_in(&dir, remove("known")).await.unwrap(),
        None,
        "a stale socket"
    );

    let listener = bind(&dir).unwrap();
    let mode = fs::metadata(dir.join(SOCKET)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let shutdown = Shutdown::new();
    let mut server = JoinSet::new();
    server.spawn(serve(listener, handler, None, shutdown.clone()));
    assert_eq!(
        ask_in(&dir, remove("known")).await.unwrap().as_deref(),
        Some("removed known")
    );
    let error = ask_in(&dir, remove("other")).await.unwrap_err();
    assert_eq!(error.public_text(), Some("no object other"));
    for id in ["", " ", "a\nremove known", &"x".repeat(1100)] {
        let kind = ask_in(&dir, remove(id)).await.unwrap_err().kind();
        assert_eq!(kind, Kind::InvalidArgument, "{id:?}");
    }
    shutdown.trigger();
    server.join_next().await.unwrap().unwrap();
    assert!(
        !dir.join(SOCKET).exists(),
        "the socket is removed at the end"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_unknown_lines() {
    let root = tempfile::tempdir().unwrap();
    let shutdown = Shutdown::new();
    let mut server = JoinSet::new();
    server.spawn(serve(
        bind(root.path()).unwrap(),
        handler,
        None,
        shutdown.clone(),
    ));
    for line in [
        "hello\n",
        "remove\n",
        "remove \n",
        "\n",
        "remove \u{e9}\u{0}x\n",
        &"x".repeat(2000),
    ] {
        let (dir, line) = (root.path().to_owned(), line.to_owned());
        let answer = tokio::task::spawn_blocking(move || ask(&dir, &line))
            .await
            .unwrap();
        let answer = String::from_utf8(answer.unwrap().unwrap()).unwrap();
        assert!(
            answer.starts_with("error ") && answer.ends_with('\n'),
            "{answer:?}"
        );
    }
    shutdown.trigger();
    server.join_next().await.unwrap().unwrap();
}

#[test]
fn answers_with_one_bounded_line() {
    let line = answer_line("error", &"é\n".repeat(2000));
    assert!(line.len() as u64 <= LINE_BYTES_MAX && line.len() as u64 > LINE_BYTES_MAX - 4);
    assert_eq!(line.matches('\n').count(), 1);
    assert!(line.ends_with('\n'));
}
