//! Control connections and signals, turned into orders for the supervisor.

use super::supervisor::{Handle, Order};
use crate::control::{Answer, Request, read_line, write_line};
use anyhow::Context;
use godwit_net::process::EndSignals;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// Who connects has this long to say what they want.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(5);

pub(super) fn start(handle: &Handle, signals: EndSignals) -> anyhow::Result<()> {
    let listener =
        UnixListener::bind(handle.dir.file("control.sock")).context("cannot make the control socket")?;
    let for_signals = handle.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.wait().is_ok() {
            for_signals.end();
        }
    })?;
    let handle = handle.clone();
    std::thread::Builder::new().name("control".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let handle = handle.clone();
            // Each on its own thread: a host that is slow to stop keeps nobody from asking. Only
            // the user can connect, so their number is the user's affair.
            let thread = std::thread::Builder::new().name("control-connection".into());
            let _ = thread.spawn(move || serve(&stream, &handle));
        }
    })?;
    Ok(())
}

fn serve(stream: &UnixStream, handle: &Handle) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(REQUEST_WAIT_MAX))?;
    let answer = match read_line::<Request>(stream) {
        Ok(Request::Status) => Answer::State(Box::new(handle.state())),
        Ok(Request::Down) => {
            handle.end();
            Answer::Done("going down".into())
        }
        Ok(Request::Fault(fault)) => {
            let (reply, answer) = sync_channel(1);
            handle.order(Order::Fault { fault, reply });
            match answer.recv() {
                Ok(Ok(done)) => Answer::Done(done),
                Ok(Err(why)) => Answer::Refused(why),
                Err(_) => Answer::Refused("the testbed is going down".into()),
            }
        }
        Err(error) => Answer::Refused(format!("not a request: {error}")),
    };
    write_line(stream, &answer)
}
