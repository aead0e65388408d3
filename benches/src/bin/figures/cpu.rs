//! What a measurement cost in processor time, by process: on a machine that plays all hosts at once
//! this, and not the links, may be what sets a rate.

use crate::bed::Bed;
use anyhow::{Context, Result};
use std::fs;
use std::time::Instant;

/// Ticks of /proc in a second (USER_HZ): 100 on every Linux.
const TICKS: f64 = 100.0;

/// Processor time from here on.
pub(crate) struct Since {
    at: Instant,
    processes: Vec<(String, u32, f64)>,
    idle: f64,
}

impl Since {
    /// Begins to count for all processes of the testbed.
    pub(crate) fn now(bed: &Bed<'_>) -> Result<Since> {
        let processes = bed.processes()?.into_iter();
        let processes = processes.map(|(name, pid)| (name, pid, seconds_of(pid).unwrap_or(0.0))).collect();
        Ok(Since { at: Instant::now(), processes, idle: idle()? })
    }

    /// Prints what was used since then.
    pub(crate) fn print(&self) -> Result<()> {
        let mut all = 0.0;
        let mut parts = Vec::new();
        for (name, pid, before) in &self.processes {
            // One that has ended took its count with it.
            let used = seconds_of(*pid).map_or(0.0, |now| now - before);
            all += used;
            if used >= 0.1 {
                parts.push(format!("{name} {used:.1}"));
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let seconds = self.at.elapsed().as_secs_f64();
        println!(
            "processor seconds: {}; together {all:.1} of {:.1} ({cores} cores for {seconds:.1} s), {:.1} idle",
            parts.join(", "),
            seconds * cores as f64,
            idle()? - self.idle
        );
        Ok(())
    }
}

/// User and system time of a process and its threads, seconds.
fn seconds_of(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may have spaces; utime and stime are fields 14 and 15.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS)
}

/// Idle time of all cores since the machine started, seconds.
fn idle() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    let idle = text.lines().next().and_then(|line| line.split_whitespace().nth(4));
    Ok(idle.context("/proc/stat has another form")?.parse::<f64>()? / TICKS)
}
