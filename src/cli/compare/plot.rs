//! The overheads as a picture: an SVG whose text is drawn by the viewer, so that no font is needed here.

use super::launch::Launch;
use super::measure::Cost;
use super::show;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::error::Error;
use std::ops::Range;

const SIZE: (u32, u32) = (920, 580);
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(45, 45, 50);
const GREY: RGBColor = RGBColor(120, 120, 128);
const GRID: RGBColor = RGBColor(208, 208, 214);
const FINE_GRID: RGBColor = RGBColor(238, 238, 242);
const PROCESSES: RGBColor = RGBColor(208, 88, 20);
const LAUNCHES: RGBColor = RGBColor(110, 70, 150);
const THREADS: RGBColor = RGBColor(24, 104, 168);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Coordinates = Cartesian2d<LogCoord<f64>, LogCoord<f64>>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Coordinates>;
/// A task's own work in nanoseconds, and what comes on top in percent of it.
type Point = (f64, f64);

/// The SVG; with a line for a program that is started for each task, if there is one.
///
/// # Errors
/// In words: there is nothing to draw.
pub fn draw(costs: &[Cost], workers: usize, launch: Option<&Launch>) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    draw_on(&SVGBackend::with_string(&mut svg, SIZE).into_drawing_area(), costs, workers, launch)
        .map_err(|error| format!("cannot draw the plot: {error}"))?;
    Ok(svg)
}

fn draw_on(
    area: &Area<'_>,
    costs: &[Cost],
    workers: usize,
    launch: Option<&Launch>,
) -> Result<(), Box<dyn Error>> {
    let (processes, threads) = (points(costs, |cost| cost.processes), points(costs, |cost| cost.threads));
    let launches = launch.map_or_else(Vec::new, |launch| points(costs, |cost| cost.work + launch.by_map));
    // From here on the pool is slower than a plain loop.
    let par = (workers as f64 - 1.0) * 100.0;
    let values = processes
        .iter()
        .chain(&threads)
        .chain(&launches)
        .map(|&(_, percent)| percent)
        .chain([1.0, 10.0, par]);

    area.fill(&WHITE)?;
    let below = area.margin(16, 6, 6, 8).titled("What a task costs above its own work", style(24, &INK))?;
    let below = below
        .titled(&format!("a map of spinning tasks, workers: {workers}; lower is better"), style(15, &GREY))?;
    let mut chart = ChartBuilder::on(&below)
        .margin(18)
        .x_label_area_size(52)
        .y_label_area_size(78)
        .build_cartesian_2d(widths(costs).log_scale(), heights(values).log_scale())?;
    grid(&mut chart)?;
    if workers > 1 {
        par_line(&mut chart, widths(costs), par)?;
    }
    if let Some(launch) = launch {
        line(&mut chart, &format!("a process each ({})", launch.name), LAUNCHES, &launches)?;
    }
    line(&mut chart, "processes (Pool)", PROCESSES, &processes)?;
    line(&mut chart, "threads (ThreadPool)", THREADS, &threads)?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .margin(14)
        .legend_area_size(40)
        .label_font(style(15, &INK))
        .background_style(WHITE.mix(0.92))
        .border_style(GRID)
        .draw()?;
    area.present()?;
    Ok(())
}

fn style<'a>(size: u32, color: &'a RGBColor) -> TextStyle<'a> {
    (FONT, size).into_font().color(color)
}

/// What cannot be told from noise (a cost below the work itself) has no place on a logarithmic axis.
fn points(costs: &[Cost], pooled: impl Fn(&Cost) -> f64) -> Vec<Point> {
    let above = |cost: &Cost| (cost.work, (pooled(cost) / cost.work - 1.0) * 100.0);
    costs.iter().map(above).filter(|&(_, percent)| percent >= 0.01).collect()
}

/// The sizes, with some room on both sides.
fn widths(costs: &[Cost]) -> Range<f64> {
    let least = costs.iter().map(|cost| cost.work).fold(f64::MAX, f64::min);
    let most = costs.iter().map(|cost| cost.work).fold(0.0, f64::max);
    least / 1.4..most * 1.4
}

/// From a power of ten to well above the highest, where the legend finds room.
fn heights(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let positive = values.filter(|&value| value > 0.0);
    let least = positive.clone().fold(f64::MAX, f64::min);
    let most = positive.fold(0.0, f64::max);
    10_f64.powf(least.log10().floor()) * 0.95..most * 4.0
}

fn grid(chart: &mut Chart<'_, '_>) -> Result<(), Box<dyn Error>> {
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(FINE_GRID)
        .axis_style(GREY)
        .x_desc("own work of a task")
        .y_desc("time above it, in % of it")
        .axis_desc_style(style(16, &INK))
        .label_style(style(14, &INK))
        .x_label_formatter(&|&nanos| show(nanos))
        .y_label_formatter(&|&percent| format!("{percent} %"))
        .draw()?;
    Ok(())
}

fn par_line(chart: &mut Chart<'_, '_>, widths: Range<f64>, par: f64) -> Result<(), Box<dyn Error>> {
    let ends = [(widths.start, par), (widths.end, par)];
    chart.draw_series(DashedLineSeries::new(ends, 6, 5, GREY.stroke_width(1)))?;
    let label = Text::new(
        "above this line a plain loop is faster",
        (widths.start * 1.15, par * 1.3),
        style(13, &GREY),
    );
    chart.draw_series([label])?;
    Ok(())
}

fn line(
    chart: &mut Chart<'_, '_>,
    name: &str,
    color: RGBColor,
    points: &[Point],
) -> Result<(), Box<dyn Error>> {
    chart
        .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(3)))?
        .label(name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 28, y)], color.stroke_width(3)));
    chart.draw_series(points.iter().map(|&point| Circle::new(point, 5, color.filled())))?;
    Ok(())
}
