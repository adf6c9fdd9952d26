//! The latencies drawn: by percentile, both axes by powers of ten, so that the rare long waits are not lost in a corner.

use std::ops::Range;
use std::path::Path;

use common::error::{Context, Error, Result};
use hdrhistogram::Histogram;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;

use crate::distribution::points;

/// Pixels; the drawing scales.
const SIZE: (u32, u32) = (900, 500);
const FONT: &str = "sans-serif";
const LINE: RGBColor = RGBColor(0, 82, 155);
const GRID: RGBColor = RGBColor(215, 215, 215);

/// Draws the distribution of latencies in nanoseconds into an SVG file.
pub fn write(path: &Path, title: &str, latency: &Histogram<u64>) -> Result<()> {
    let drawing = draw(title, latency)
        .map_err(|cause| Error::failure(format!("cannot draw the latencies: {cause}")))?;
    std::fs::write(path, drawing).context(|| format!("cannot write the drawing to {}", path.display()))
}

type Drawn<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn draw(title: &str, latency: &Histogram<u64>) -> Drawn<String> {
    let curve = curve(latency);
    let (across, up) = (tens(curve.iter().map(|at| at.0)), tens(curve.iter().map(|at| at.1)));
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, (FONT, 16))
            .margin(16)
            .margin_right(32)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(across, up)?;
        chart
            .configure_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style((FONT, 14))
            .x_desc(format!("share of {} requests that took no longer", latency.len()))
            .y_desc("latency")
            .x_label_formatter(&|at| share_label(*at))
            .y_label_formatter(&|at| time_label(*at))
            .draw()?;
        chart.draw_series(LineSeries::new(curve, LINE.stroke_width(2)))?;
        root.present()?;
    }
    Ok(svg)
}

/// How many nines the share of requests has, and the power of ten of its latency in ms. The longest of n requests
/// stands where one in n is left.
fn curve(latency: &Histogram<u64>) -> Vec<(f64, f64)> {
    let last = (latency.len().max(1) as f64).log10();
    let nines = |share: f64| (-(1.0 - share).log10()).min(last);
    points(latency).into_iter().map(|point| (nines(point.share), point.ms.max(1e-6).log10())).collect()
}

/// The whole powers of ten around all values, at least one.
fn tens(values: impl Iterator<Item = f64>) -> Powers {
    let (least, most) =
        values.fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(value), most.max(value)));
    // Nothing was counted.
    let (least, most) = if least > most { (0.0, 1.0) } else { (least.floor(), most.ceil()) };
    Powers(least..most.max(least + 1.0))
}

/// An axis with a line at every power of ten; what stands on it are logarithms.
#[derive(Clone)]
struct Powers(Range<f64>);

impl Ranged for Powers {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let part = (value - self.0.start) / (self.0.end - self.0.start);
        from + (f64::from(to - from) * part).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        // A histogram reaches over 13 of them.
        (self.0.start as i32..=self.0.end as i32).map(f64::from).collect()
    }

    fn range(&self) -> Range<f64> {
        self.0.clone()
    }
}

/// 0 %, 90 %, 99 %, 99.9 % and so on.
fn share_label(nines: f64) -> String {
    match nines as usize {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        more => format!("99.{} %", "9".repeat(more - 2)),
    }
}

fn time_label(power: f64) -> String {
    match power as i32 {
        power @ ..-3 => format!("{} ns", 10f64.powi(power + 6)),
        power @ -3..0 => format!("{} µs", 10f64.powi(power + 3)),
        power @ 0..3 => format!("{} ms", 10f64.powi(power)),
        power => format!("{} s", 10f64.powi(power - 3)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::histogram;

    #[test]
    fn labels() {
        assert_eq!([0.0, 1.0, 2.0, 3.0, 5.0].map(share_label), ["0 %", "90 %", "99 %", "99.9 %", "99.999 %"]);
        let times = [-6.0, -4.0, -3.0, -1.0, 0.0, 2.0, 3.0, 4.0].map(time_label);
        assert_eq!(times, ["1 ns", "100 ns", "1 µs", "100 µs", "1 ms", "100 ms", "1 s", "10 s"]);
    }

    #[test]
    fn a_drawing_of_anything() {
        let mut latency = histogram().unwrap();
        // Of nothing, of one, of many.
        for count in [0, 1, 100_000] {
            for number in 0..count {
                latency.record(20_000 + number * 1000).unwrap();
            }
            let drawing = draw("<localhost> & co", &latency).unwrap();
            assert!(drawing.starts_with("<svg ") && drawing.trim_end().ends_with("</svg>"), "{drawing}");
            assert!(drawing.contains("&lt;localhost&gt; &amp; co") && drawing.contains("90 %"), "{drawing}");
        }
    }
}
