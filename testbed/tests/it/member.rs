//! A member that is just alive: its control socket says that all is well, and if it is to answer
//! DNS it answers every question with one address.

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

pub(crate) fn run(arguments: &[&str]) -> ExitCode {
    let ["--data-dir", data_dir, "--config", config] = arguments else { return ExitCode::from(2) };
    std::fs::create_dir_all(data_dir).unwrap();
    let config = std::fs::read_to_string(config).unwrap();
    if let Some((_, rest)) = config.split_once("[redirector]\nlisten = [\"") {
        let address = rest.split('"').next().unwrap().to_owned();
        std::thread::spawn(move || answer_dns(&address));
    }
    let socket = Path::new(data_dir).join("admin.sock");
    let _ = std::fs::remove_file(&socket);
    for stream in UnixListener::bind(socket).unwrap().incoming().flatten() {
        let mut line = String::new();
        let _ = BufReader::new(&stream).read_line(&mut line);
        let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }
    ExitCode::SUCCESS
}

fn answer_dns(address: &str) {
    let socket = UdpSocket::bind(address).unwrap();
    let mut buffer = [0; 512];
    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
        let mut answer = buffer[..len].to_vec();
        answer[2] |= 0x84;
        answer[7] = 1;
        answer.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\xc6\x12\x00\x01");
        let _ = socket.send_to(&answer, from);
    }
}

/// Sends every datagram back, and says when it is ready.
pub(crate) fn echo(address: &str) -> ExitCode {
    let socket = UdpSocket::bind(address).unwrap();
    println!("ready");
    let mut buffer = [0; 2048];
    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(&buffer[..len], from);
    }
    ExitCode::FAILURE
}

/// Prints round-trip times in µs, one a line; `lost` where nothing came back in time.
pub(crate) fn ping(address: &str) -> ExitCode {
    let wildcard = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(wildcard).unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut buffer = [0; 2048];
    for number in 0..10u8 {
        let started = Instant::now();
        socket.send(&[number; 1000]).unwrap();
        match socket.recv(&mut buffer) {
            Ok(1000) if buffer[..1000] == [number; 1000] => println!("{}", started.elapsed().as_micros()),
            Ok(len) => println!("wrong answer of {len} bytes"),
            Err(_) => {
                println!("lost");
                return ExitCode::SUCCESS;
            }
        }
    }
    ExitCode::SUCCESS
}
