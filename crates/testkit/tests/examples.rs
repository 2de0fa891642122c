//! The example services by hand, without a mesh: what they do is known before a mesh changes it.

use ripstop_testkit::port::{Port, reserve};
use ripstop_testkit::process::Guard;
use ripstop_testkit::wait::{GENEROUS, until_true};
use ripstop_testkit::{http, program, root};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;

/// Starts a service of `examples/FOLDER` on `port` and waits for its port.
fn service(folder: &str, command: &[&str], port: &Port, env: &[(&str, &str)]) -> Guard {
    let mut process = Command::new(program(command[0]));
    process
        .args(&command[1..])
        .current_dir(root().join("examples").join(folder));
    process
        .env("PORT", port.number().to_string())
        .envs(env.iter().copied());
    let guard = Guard::spawn(command[1], &mut process);
    until_true(GENEROUS, command[1], || {
        TcpStream::connect(port.addr()).is_ok()
    });
    guard
}

fn url(port: &Port) -> String {
    format!("http://{}", port.addr())
}

#[test]
fn users_fail_three_ways_and_replicas_share_the_count() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("failures.json");
    let env = [("FAILURES", file.to_str().expect("a plain path"))];
    let ports = [reserve(), reserve()];
    let _replicas = [
        service("orders", &["python3", "users.py"], &ports[0], &env),
        service("orders", &["python3", "users.py"], &ports[1], &env),
    ];
    let ask = |replica: usize| http::get(ports[replica].addr(), "user-service", "/users/7");
    assert_eq!(ask(0).expect("an answer").status, 503);
    assert_eq!(ask(1).expect("an answer").status, 409);
    assert_eq!(
        ask(0).expect_err("a closed connection").kind(),
        std::io::ErrorKind::UnexpectedEof
    );
    let answer = ask(1).expect("an answer");
    assert_eq!(
        (answer.status, answer.text().contains("User 7")),
        (200, true)
    );
}

#[test]
fn orders_fail_without_retries_and_succeed_when_users_do() {
    for (failures, expected) in [("3", 1), ("0", 0)] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("failures.json");
        let env = [
            ("FAILURES", file.to_str().expect("a plain path")),
            ("FAILURES_PER_ID", failures),
        ];
        let (users, orders) = (reserve(), reserve());
        let _users = service("orders", &["python3", "users.py"], &users, &env);
        let mut order_service = service(
            "orders",
            &["ruby", "orders.rb"],
            &orders,
            &[("USERS", &url(&users))],
        );
        let mut command = Command::new(program("python3"));
        command
            .arg(root().join("examples/orders/check.py"))
            .env("ORDERS", url(&orders));
        let mut check = Guard::spawn("check.py", &mut command);
        assert_eq!(
            check.wait(GENEROUS).code(),
            Some(expected),
            "{}",
            check.report()
        );
        let count = if expected == 0 { "50 of 50" } else { "0 of 50" };
        assert!(check.stdout().contains(count), "{}", check.report());
        assert_eq!(order_service.terminate(GENEROUS).code(), Some(0));
    }
}

#[test]
fn the_shop_puts_its_page_together_and_ends_in_order() {
    let [shop, catalog, reviews, prices, recommendations, inventory] =
        std::array::from_fn(|_| reserve());
    let stock = inventory.addr().to_string();
    let mut services = [
        service("shop", &["ruby", "inventory.rb"], &inventory, &[]),
        service(
            "shop",
            &["python3", "catalog.py"],
            &catalog,
            &[("INVENTORY", &stock), ("VERSION", "v2")],
        ),
        service(
            "shop",
            &["ruby", "reviews.rb"],
            &reviews,
            &[("FAIL_EVERY", "2")],
        ),
        service("shop", &["python3", "prices.py"], &prices, &[]),
        service(
            "shop",
            &["node", "recommendations.js"],
            &recommendations,
            &[],
        ),
        service(
            "shop",
            &["node", "shop.js"],
            &shop,
            &[
                ("CATALOG", &url(&catalog)),
                ("REVIEWS", &url(&reviews)),
                ("PRICES", &url(&prices)),
                ("RECOMMENDATIONS", &url(&recommendations)),
            ],
        ),
    ];
    let get = |path: &str| http::get(shop.addr(), "shop", path).expect("an answer");
    let product =
        || -> serde_json::Value { serde_json::from_slice(&get("/product/3").body).expect("JSON") };
    let (first, second) = (product(), product());
    assert_eq!(
        (first["stock"].as_i64(), first["version"].as_str()),
        (Some(17), Some("v2"))
    );
    assert_eq!(first["missing"], serde_json::json!([]));
    assert_eq!(
        second["missing"],
        serde_json::json!(["reviews"]),
        "every second review fails"
    );
    assert_eq!((get("/").status, get("/product/99").status), (200, 404));

    let mut line = String::new();
    let stream = TcpStream::connect(inventory.addr()).expect("a connection");
    BufReader::new(&stream)
        .read_line(&mut line)
        .expect("a greeting");
    assert_eq!(line, "220 inventory ready\r\n");
    (&stream).write_all(b"QUIT\r\n").expect("room");

    let mut load = Command::new(program("python3"));
    load.arg(root().join("examples/shop/load.py"))
        .env("SHOP", url(&shop))
        .env("PRICES", url(&prices));
    let status_port = reserve();
    load.env("PORT", status_port.number().to_string())
        .env("RATE", "100")
        .env("COUNT", "40");
    let mut load = Guard::spawn("load.py", &mut load);
    assert_eq!(load.wait(GENEROUS).code(), Some(0), "{}", load.report());
    assert!(load.stdout().contains("page 200: 10"), "{}", load.report());

    for service in &mut services {
        assert_eq!(
            service.terminate(GENEROUS).code(),
            Some(0),
            "{}",
            service.report()
        );
    }
}
