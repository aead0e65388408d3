//! The table for people: what each row says, in three groups.

use super::{Report, Row};

/// Prints all rows.
pub(super) fn table(report: &Report) {
    println!(
        "{} replica sets from {}; {:?} asked, sized {:?}, {} rounds, {} ‰ explore; ms over the best replica\n",
        report.sets, report.matrix, report.asked, report.sized, report.rounds, report.explore_permille
    );
    println!(
        "                           most used, %   over  last  p95 / mean                              worse, %"
    );
    println!(
        "replicas  load  capacities   map  nearest    %  round     map        best     5 % free  nearest  with room    map, nearest, with room   changes/h  learning  compute"
    );
    report.results.iter().for_each(sent);
    println!(
        "\nbeyond the best division: p95 (worse), and the map's p95 (worse) in each sixth of the rounds\n"
    );
    println!("replicas  load  capacities      map         nearest       with room      course");
    report.results.iter().for_each(beyond);
    println!();
}

fn name(row: &Row) -> String {
    let known = if row.capacities_known { "known" } else { "unknown" };
    format!("{:>8}  {:>4.2}  {known:<10}", row.replicas, row.load)
}

fn sent(row: &Row) {
    let two = |p95: f64, mean: f64| format!("{p95:>5.1} /{mean:>5.1}");
    println!(
        "{} {:>5.1} {:>8.1} {:>4.1} {:>6}  {}  {}  {}    {:>5.1}  {}  {:>7.1} {:>7.1} {:>7.1}     {:>8.2} {:>9.2} {:>5.1} ms",
        name(row),
        row.most_utilised * 100.0,
        row.nearest_utilised * 100.0,
        row.overloaded_percent,
        row.overloaded_until,
        two(row.p95_ms, row.mean_ms),
        two(row.best_p95_ms, row.best_mean_ms),
        two(row.spared_p95_ms, row.spared_mean_ms),
        row.nearest_p95_ms,
        two(row.overflow_p95_ms, row.overflow_mean_ms),
        row.worse_percent,
        row.nearest_worse_percent,
        row.overflow_worse_percent,
        row.changes_per_client_hour,
        row.changes_learning,
        row.compute_ms
    );
}

fn beyond(row: &Row) {
    let one = |p95: f64, worse: f64| format!("{p95:>5.1} ({worse:>4.1} %)");
    print!(
        "{} {}  {}  {}  ",
        name(row),
        one(row.beyond_p95_ms, row.worse_than_allowed_percent),
        one(row.nearest_beyond_p95_ms, row.nearest_worse_than_allowed_percent),
        one(row.overflow_beyond_p95_ms, row.overflow_worse_than_allowed_percent),
    );
    row.course.iter().for_each(|(p95, worse)| print!("  {}", one(*p95, *worse).trim_start()));
    println!();
}
