//! The folder and the page of the demo.

use std::path::Path;

use super::*;
use crate::config::{Access, Origins};

fn demo(listen: &str, folder: &Path) -> Demo {
    Demo {
        listen: listen.parse().expect("an address"),
        admin: "127.0.0.1:8001".parse().expect("an address"),
        api_key: "correct-horse".to_owned(),
        folder: Folder::fill(folder, &[]).expect("writable"),
        signer: Signer::with_secret(b"a secret of thirty-two bytes or more").expect("long enough"),
    }
}

#[test]
fn only_the_demos_own_page_may_connect_and_the_router_decides_the_rest() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = demo("127.0.0.1:8000", folder.path()).config().expect("valid");
    let own = ["http://localhost:8000", "http://127.0.0.1:8000"].map(Into::into);
    assert_eq!(config.handshake.origins, Origins::Listed(own.into()));
    assert!(!config.client.anonymous && config.raw.enabled);
    assert_eq!(config.plugins.folder, folder.path().canonicalize().expect("there"));
    let chat = &config.namespaces.named["chat"];
    assert!(chat.recovery && chat.presence && chat.join_leave);
    assert_eq!((chat.allow_subscribe, chat.allow_publish), (Access::Nobody, Access::Nobody));
}

#[test]
fn the_origin_is_what_a_browser_sends_for_the_address() {
    let folder = tempfile::tempdir().expect("a folder");
    for (listen, second) in [("[::1]:9000", "http://[::1]:9000"), ("127.0.0.1:80", "http://127.0.0.1")] {
        let Origins::Listed(origins) = demo(listen, folder.path()).config().expect("valid").handshake.origins
        else {
            panic!("any origin")
        };
        assert_eq!(&*origins[1], second);
    }
}

#[test]
fn the_demo_is_for_this_machine_only() {
    for (listen, admin) in [("0.0.0.0:8000", "127.0.0.1:8001"), ("127.0.0.1:8000", "192.0.2.1:8001")] {
        let address = |text: &str| text.parse().expect("an address");
        let options = Options { listen: address(listen), admin: address(admin), source: None, folder: None };
        let error = Demo::prepare(&options).err().expect("refused").to_string();
        assert!(error.contains("can be reached from other machines"), "{error}");
    }
}

#[test]
fn a_port_in_use_is_noticed_before_anything_is_built() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().map(|address| (taken, address)).expect("an address");
    let any = "127.0.0.1:0".parse().expect("an address");
    for (name, listen, admin) in [("--listen", taken.1, any), ("--admin", any, taken.1)] {
        // A source tree that does not exist would be the next error.
        let source = Some("/nonexistent".into());
        let error = Demo::prepare(&Options { listen, admin, source, folder: None }).err().expect("refused");
        let error = format!("{error:#}");
        assert!(error.contains(&format!("choose another address with {name}")), "{error}");
        assert!(error.contains("in use"), "{error}");
    }
}

#[test]
fn what_to_try_names_the_page_the_folder_and_the_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let demo = demo("127.0.0.1:8000", folder.path());
    let text = demo.what_next();
    for word in
        ["http://127.0.0.1:8000/", "correct-horse", "50-router.toml", "http://127.0.0.1:8001/api/publish"]
    {
        assert!(text.contains(word), "{word}");
    }
}
