//! The application that the cluster tests deploy: says which instance answers, slowly if asked, and ends if asked.
//!
//! ```text
//! GET /            its instance uuid          GET /slow?ms=200   the same, after a while
//! GET /env         its environment            GET /exit?code=3   answers, then ends with this code
//! GET /log?text=x  writes x to stdout         GET /err?text=x    writes x to stderr
//! ```
//!
//! Arguments: `--tcp PORT` echoes lines there, each with the uuid before it; `--deaf` listens nowhere; `--crash` ends at
//! once with code 7. Without a PORT it runs and serves nobody, as an application without ports does. TERM ends it at once,
//! whatever it does: whoever still waits for an answer then has lost it, and the test that caused it fails. Deliberately
//! absent: anything that a real application would want.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let uuid = std::env::var("CNTM_INSTANCE_UUID").unwrap_or_else(|_| "nobody".to_owned());
    println!("sample app {uuid} starts");
    if has("--crash") {
        eprintln!("sample app crashes as asked");
        std::process::exit(7);
    }
    if let Some(at) = arguments.iter().position(|argument| argument == "--tcp") {
        let port: u16 = arguments[at + 1].parse().expect("--tcp has a port");
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let uuid = uuid.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let uuid = uuid.clone();
                std::thread::spawn(move || echo(stream, &uuid));
            }
        });
    }
    if has("--deaf") {
        park();
    }
    let Ok(port) = std::env::var("PORT") else {
        println!("sample app has no port: it serves nobody");
        park();
    };
    let port: u16 = port.parse().expect("PORT is a number");
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    for stream in listener.incoming().flatten() {
        let uuid = uuid.clone();
        std::thread::spawn(move || serve(stream, &uuid));
    }
}

fn park() -> ! {
    loop {
        std::thread::park();
    }
}

fn echo(stream: TcpStream, uuid: &str) {
    let Ok(mut out) = stream.try_clone() else { return };
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if writeln!(out, "{uuid} {line}").is_err() {
            return;
        }
    }
}

fn serve(stream: TcpStream, uuid: &str) {
    let Ok(mut out) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    while let Some((target, length)) = request(&mut reader) {
        // A body is read and forgotten.
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let (path, query) = target.split_once('?').unwrap_or((target.as_str(), ""));
        let value = query.split_once('=').map_or("", |(_, value)| value);
        let mut text = format!("{uuid}\n");
        let mut end = None;
        match path {
            "/slow" => std::thread::sleep(Duration::from_millis(value.parse().unwrap_or(0))),
            "/env" => {
                text = std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect()
            }
            "/exit" => end = value.parse().ok(),
            "/log" => println!("{value}"),
            "/err" => eprintln!("{value}"),
            _ => {}
        }
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Instance: {uuid}\r\n\r\n",
            text.len()
        );
        if out.write_all(format!("{head}{text}").as_bytes()).is_err() {
            return;
        }
        if let Some(code) = end {
            std::process::exit(code);
        }
    }
}

/// Target and length of the body of the next request; none at the end.
fn request(reader: &mut impl BufRead) -> Option<(String, usize)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let target = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        let mut field = String::new();
        reader.read_line(&mut field).ok().filter(|count| *count > 0)?;
        let field = field.trim_end();
        if field.is_empty() {
            return Some((target, length));
        }
        if let Some((name, value)) = field.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
    }
}
