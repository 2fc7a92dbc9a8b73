//! Every wrong file gets the words it deserves, at the place where it is wrong.

use std::path::Path;

use vswitchd::config::{MAX_BYTES, MAX_ERRORS, MAX_INTERFACES, MAX_NETWORKS, MAX_ROUTES, parse};

use super::{first_lines, parse as parse_text};

/// `errors.txt`: `### title`, the file, an empty line, and one `=> ` line an error.
#[test]
fn every_error_says_where_what_and_what_would_be_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/errors.txt");
    let golden = std::fs::read_to_string(&path).unwrap();
    let (head, cases) = golden.split_once("### ").unwrap();
    let mut said = head.to_owned();
    for case in cases.split("\n### ") {
        let (title, rest) = case.split_once('\n').unwrap();
        let text: String =
            rest.lines().take_while(|line| !line.is_empty()).map(|l| format!("{l}\n")).collect();
        let lines: String = first_lines(&text).iter().map(|line| format!("=> {line}\n")).collect();
        assert!(!lines.is_empty(), "`{title}` is accepted:\n{text}");
        said.push_str(&format!("### {title}\n{text}\n{lines}\n"));
    }
    let said = format!("{}\n", said.trim_end());
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &said).unwrap();
        return;
    }
    for (was, is) in golden.lines().zip(said.lines()) {
        assert_eq!(is, was, "BLESS=1 writes errors.txt anew");
    }
    assert_eq!(said.len(), golden.len());
}

#[test]
fn an_excerpt_points_at_the_place() {
    let text = "# é\n[[network]]\nname = \"é\"   # ü\nsubnt = \"10.1.0.0/24\"\n";
    let errors = parse_text(text).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "lab.toml:3:8: error: `name` = \"é\": the name of a network is 1 to 63 letters, digits, `_`, `.` and `-`, \
         and starts with a letter or digit\n  \
         |\n\
         3 | name = \"é\"   # ü\n  \
         |        ^^^\n\
         lab.toml:4:1: error: unknown key `subnt` in [[network]]; did you mean `subnet`? (known: name, subnet, \
         subnet6, gateway, gateway6, gateway_mac, host_address, mtu, nat, nat6, icc, internal, routes_to, dhcp, ageing, fdb_limit, \
         spoof, storm, vlan, transparent, snooping, vni)\n  \
         |\n\
         4 | subnt = \"10.1.0.0/24\"\n  \
         | ^^^^^"
    );
}

#[test]
fn an_excerpt_of_a_long_line_is_a_window() {
    let text = format!("[daemon]\nio = \"epoll\" # {}\n\nx = {{ {} = 1 }}", "x".repeat(300), "k".repeat(300));
    let errors = parse_text(&text).unwrap_err();
    let excerpt = &errors.errors().first().unwrap().excerpt;
    assert!(excerpt.lines().all(|line| line.chars().count() < 110), "{excerpt}");
    let text = format!("a = \"{}\" x", "y".repeat(MAX_BYTES / 2));
    let errors = parse_text(&text).unwrap_err().to_string();
    assert!(errors.contains(":524296: error: ") && errors.len() < 1000, "{errors}");
}

#[test]
fn a_message_never_sends_escapes_to_the_terminal() {
    let text = "[[network]]\nname = \"a\\u001b[31mb\\u202e\"\n";
    let said = parse_text(text).unwrap_err().to_string();
    assert!(said.contains("a\\u{1b}[31mb\\u{202e}"), "{said}");
    let raw = "x = 1 # \u{1b}[31m\n";
    let said = parse_text(raw).unwrap_err().to_string();
    assert!(!said.contains('\u{1b}'), "{said}");
    let said = parse("a\nb.toml", b"x = 1").unwrap_err().to_string();
    assert!(said.starts_with("a?b.toml:1:1: error: "), "{said}");
}

#[test]
fn a_byte_that_is_not_utf8_has_a_line_and_a_column() {
    let errors = parse("lab.toml", b"# a\nname = \"\xc3\xa9\xff\"\n").unwrap_err();
    let said = errors.to_string();
    let first = "lab.toml:2:10: error: byte 0xff is not UTF-8: save the file as UTF-8\n";
    assert!(said.starts_with(first) && said.ends_with("         ^"), "{said}");
    let cut = parse("lab.toml", b"name = \"\xc3").unwrap_err().to_string();
    assert!(cut.starts_with("lab.toml:1:9: error: byte 0xc3 is not UTF-8"), "{cut}");
}

#[test]
fn a_file_too_large_is_refused_unread() {
    let errors = parse("lab.toml", &vec![b'\n'; MAX_BYTES + 1]).unwrap_err();
    let line = errors.errors().first().unwrap().first_line();
    assert_eq!(line, "lab.toml:1:1: error: the file is larger than 1048576 bytes: not a configuration");
    assert!(parse("lab.toml", &vec![b'\n'; MAX_BYTES]).is_ok());
}

#[test]
fn nesting_is_limited_and_found() {
    let arrays = format!("\nx = {}{}\n", "[".repeat(100_000), "]".repeat(100_000));
    let tables = format!("\nx = {}\n", "{a=".repeat(100_000));
    let dotted = format!("\n{}b = 1\n", "a.".repeat(100_000));
    for (text, column) in [(arrays, 85), (tables, 245), (dotted, 1)] {
        let line = first_lines(&text).first().cloned().unwrap();
        assert_eq!(line, format!("lab.toml:2:{column}: error: nested more than 80 levels deep"));
    }
}

#[test]
fn one_run_names_twenty_errors_and_counts_the_rest() {
    let text = "[[network]]\nmtu = 1\n".repeat(50);
    let errors = parse_text(&text).unwrap_err();
    assert_eq!((errors.errors().len(), errors.more()), (MAX_ERRORS, 80));
    assert!(errors.to_string().ends_with("\nand 80 more"));
    let lines: Vec<_> = errors.errors().iter().map(|error| (error.line, error.column)).collect();
    assert!(lines.is_sorted(), "{lines:?}");
}

#[test]
fn the_largest_hostile_files_are_answered() {
    let fill = |piece: &str| piece.repeat(MAX_BYTES / piece.len());
    for piece in [
        "=\n",
        "[",
        "[[network]]\n",
        "[[container]]\n[[container.interface]]\n",
        "[[route]]\n",
        "[[a.b]]\n",
        "\"",
        "é=",
    ] {
        assert!(!first_lines(&fill(piece)).is_empty(), "{piece}");
    }
    let mut dotted = String::new();
    for index in 0..70_000 {
        dotted.push_str(&format!("a.b{index}.c=1\n"));
    }
    assert_eq!(first_lines(&dotted).len(), 1);
    let names: String =
        (0..4_000).map(|n| format!("[[network]]\nname = \"{}{n}\"\n", "n".repeat(40))).collect();
    let ports = format!("[[container.interface]]\nnetwork = \"{}x\"\n", "n".repeat(43)).repeat(4_000);
    let text = format!("{names}[[container]]\nname = \"c\"\n{ports}");
    assert_eq!(parse_text(&text).unwrap_err().more(), 4_000 - MAX_ERRORS);
    let unknown = format!(
        "[[network]]\nname = \"n\"\nsubnet = \"10.0.0.0/8\"\nroutes_to = [{}]\n",
        "\"x\", ".repeat(200_000)
    );
    assert_eq!(parse_text(&unknown).unwrap_err().more(), 200_000 - MAX_ERRORS);
}

#[test]
fn as_many_networks_as_there_may_be_can_all_reach_each_other() {
    let mut text = String::new();
    for place in 0..MAX_NETWORKS {
        let (high, low) = (place / 256, place % 256);
        text.push_str(&format!(
            "[[network]]\nname = \"n{place}\"\nsubnet = \"10.{high}.{low}.0/24\"\nroutes_to = \"all\"\n"
        ));
    }
    let config = parse_text(&text).unwrap();
    assert_eq!(config.zones().len(), 1);
    let alike = text.replace(".0/24", ".0/30").replace("subnet = \"10.1.", "subnet = \"10.0.");
    assert_eq!(parse_text(&alike).unwrap_err().more(), 256 - MAX_ERRORS);
    let route = |place: usize| {
        format!(
            "[[route]]\nnetwork = \"n0\"\ndestination = \"11.{}.{}.0/24\"\nvia = \"10.0.0.2\"\n",
            place / 256,
            place % 256
        )
    };
    let routes: String = (0..=MAX_ROUTES).map(route).collect();
    let head = "[[network]]\nname = \"n0\"\nsubnet = \"10.0.0.0/24\"\n";
    let lines = first_lines(&format!("{head}{routes}"));
    assert_eq!(lines, ["lab.toml:16004:1: error: more than 4000 routes: one daemon serves at most 4000"]);
}

#[test]
fn there_is_a_limit_of_interfaces() {
    let head = "[[network]]\nname = \"n\"\nsubnet = \"10.0.0.0/16\"\n[[container]]\nname = \"c\"\n";
    let port = "[[container.interface]]\nnetwork = \"n\"\n";
    let at_most = format!("{head}{}", port.repeat(MAX_INTERFACES));
    assert_eq!(parse_text(&at_most).unwrap().interfaces().count(), MAX_INTERFACES);
    let lines = first_lines(&format!("{at_most}{port}"));
    assert_eq!(lines, ["lab.toml:8006:1: error: more than 4000 interfaces: one daemon serves at most 4000"]);
}
