use super::*;

fn address(text: &str) -> ZmqAddress {
    text.parse().unwrap()
}

#[test]
fn addresses_are_tcp() {
    for text in [
        "tcp://127.0.0.1:28332",
        "tcp://node.example:1",
        "tcp://[::1]:65535",
    ] {
        assert_eq!(address(text).to_string(), text);
    }
    for text in [
        "",
        "127.0.0.1:28332",
        "ipc:///tmp/node",
        "http://127.0.0.1:28332",
        "tcp://127.0.0.1",
        "tcp://:28332",
        "tcp://[]:28332",
        "tcp://::1:28332",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:65536",
        "tcp://user:pass@host:1",
        "tcp://127.0.0.1:28332/path",
    ] {
        let error = text.parse::<ZmqAddress>().unwrap_err();
        assert!(matches!(error, ChainError::Setup(_)), "{text}: {error:?}");
        assert!(error.to_string().contains("-zmqpubhashblock"), "{error}");
    }
}

#[test]
fn local_publishers_are_found() {
    let found = |list: &[(&str, &str)]| {
        let list = list.iter().map(|(kind, address)| ZmqNotification {
            kind: (*kind).to_owned(),
            address: (*address).to_owned(),
        });
        let list: Vec<_> = list.collect();
        ZmqAddress::local(&list).map(|address| address.to_string())
    };
    assert_eq!(found(&[]), None);
    let block = ("pubhashblock", "tcp://127.0.0.1:1");
    let sequence = ("pubsequence", "tcp://*:2");
    assert_eq!(found(&[block]).unwrap(), "tcp://127.0.0.1:1");
    assert_eq!(found(&[block, sequence]).unwrap(), "tcp://127.0.0.1:2");
    for (kind, address, wanted) in [
        ("pubrawtx", "tcp://127.0.0.1:1", None),
        ("pubhashblock", "ipc:///tmp/node", None),
        ("pubhashblock", "tcp://192.0.2.7:1", None),
        ("pubhashblock", "tcp://0.0.0.0:1", Some("tcp://127.0.0.1:1")),
        ("pubhashblock", "tcp://[::]:1", Some("tcp://[::1]:1")),
        (
            "pubhashblock",
            "tcp://localhost:1",
            Some("tcp://localhost:1"),
        ),
    ] {
        assert_eq!(found(&[(kind, address)]).as_deref(), wanted, "{address}");
    }
}
