//! Readiness: by sd_notify, by a line, and not in time.

use crate::MINUTE;
use crate::support::{poll, robust};
use crate::tool::{Place, said};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

fn notify(address: &str, text: &str) {
    let address = SocketAddr::from_abstract_name(address.trim().strip_prefix('@').unwrap()).unwrap();
    UnixDatagram::unbound().unwrap().send_to_addr(text.as_bytes(), &address).unwrap();
}

#[test]
fn ready_by_notify_with_its_status() {
    robust(MINUTE, || {
        let place = Place::new();
        let script = "echo $NOTIFY_SOCKET > address; exec sleep 1000";
        let tool = place.start(&format!("--ready notify -C {}", place.path().display()), script);
        let rows = place.until(&["starting"]);
        assert_eq!(rows[0][5], "0");
        assert_eq!(place.output(&["status", "web"]).status.code(), Some(3));
        let early = place.output(&["wait", "--ready", "web", "--timeout", "50ms"]);
        assert_eq!(early.status.code(), Some(1));
        let file = place.path().join("address");
        poll("it has an address", MINUTE / 4, || {
            std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n'))
        });
        let address = std::fs::read_to_string(file).unwrap();
        notify(&address, "nonsense\nREADY=0\nSTATUS=warming up");
        place.until(&["starting"]);
        notify(&address, "READY=1\nSTATUS=serving");
        assert_eq!(place.output(&["wait", "--ready", "web"]).status.code(), Some(0));
        let json = place.output(&["status", "web", "--json"]).stdout;
        let row: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!((row["state"].as_str(), row["text"].as_str()), (Some("ready"), Some("serving")));
        assert_eq!(tool.stop().code, 0);
    });
}

#[test]
fn ready_by_a_line() {
    robust(MINUTE, || {
        let place = Place::new();
        let script = "echo not yet; echo listening on 8080 >&2; exec sleep 1000";
        let tool = place.start("--ready line:^listening.*\\d+$", script);
        place.until(&["ready"]);
        assert_eq!(place.output(&["wait", "--ready", "web"]).status.code(), Some(0));
        let said = tool.stop();
        assert_eq!((said.out.as_str(), said.err.as_str()), ("not yet\n", "listening on 8080\n"));
    });
}

#[test]
fn who_is_not_ready_in_time_has_failed() {
    robust(MINUTE, || {
        for ready in ["notify", "line:never"] {
            let place = Place::new();
            let flags = format!("--ready {ready} --start-timeout 50ms --restart-delay 1ms --restart-limit 1");
            let said = said(&place.run(&flags, "exec sleep 1000"));
            let late = said.err.matches("not ready in time").count();
            assert_eq!((said.code, late), (122, 2), "{said:?}");
            assert!(said.err.contains("start timeout"), "{said:?}");
        }
    });
}
