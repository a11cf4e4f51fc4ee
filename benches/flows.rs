//! Which flow should t be? Affine coupling (with the last weights, as by default, and with their moving
//! average), spline coupling with LU mixing, flow matching and TarFlow, each trained for the same
//! time on the same codes, and tested on the same held-out images.
//!
//! `cargo bench --bench flows -- time` measures a training step and the time of 64 samples for each (the
//! least of all runs counts); nothing else should run. `cargo bench --bench flows` then trains each for as many steps as fit
//! into `seconds` by these times, so that other work beside it changes no result, and adds a line to the
//! table for each. Lines that exist are not measured again.
//!
//! Options: `seconds=90`, `seeds=3`, `on=digits,faces,creatures`, `flows=affine;TarFlow`, `photographs=FILE.parquet` (a fourth
//! set of codes: E, D and a small AlexNet are trained on the file first; not run yet), `out=FOLDER` (by default
//! `target/flows`), `cache=FOLDER`.

mod common;

use common::arguments;
use invariances::data::ImageColumns;
use invariances::flow::*;
use invariances::interpret::{Certificate, CertificateConfig, fit_flow};
use invariances::metric::Resampled;
use invariances::notebook::Subject;
use invariances::ops::values;
use invariances::prelude::*;
use invariances::train::{Adam, Trained};
use invariances::{Error, Result};
use std::path::{Path, PathBuf};
use std::time::Instant;

const BATCH: usize = 128;
const TRAIN_IMAGES: usize = 16_000;
const TEST_IMAGES: usize = 2000;
/// Images whose log-density is computed; that of flow matching is slow.
const DENSITY_IMAGES: usize = 500;
const FLOWS: [&str; 5] = [
    "affine",
    "affine (averaged)",
    "spline + LU",
    "flow matching",
    "TarFlow",
];

struct Options {
    seconds: f64,
    seeds: u64,
    datasets: Vec<String>,
    flows: Vec<String>,
    photographs: Option<PathBuf>,
    out: PathBuf,
    cache: PathBuf,
    time: bool,
}

impl Options {
    fn of(arguments: Vec<String>) -> Result<Self> {
        let mut options = Self {
            seconds: 90.0,
            seeds: 3,
            datasets: ["digits", "faces", "creatures"].map(String::from).to_vec(),
            flows: FLOWS.map(String::from).to_vec(),
            photographs: None,
            out: "target/flows".into(),
            cache: "target/flows/cache".into(),
            time: false,
        };
        for argument in arguments {
            let wrong = || Error::invalid(format!("unknown or wrong argument {argument}"));
            match argument.split_once('=') {
                None if argument == "time" => options.time = true,
                Some(("seconds", value)) => options.seconds = value.parse().map_err(|_| wrong())?,
                Some(("seeds", value)) => options.seeds = value.parse().map_err(|_| wrong())?,
                Some(("on", value)) => {
                    options.datasets = value.split(',').map(String::from).collect()
                }
                Some(("flows", value)) => {
                    options.flows = value.split(';').map(String::from).collect()
                }
                Some(("photographs", value)) => options.photographs = Some(value.into()),
                Some(("out", value)) => options.out = value.into(),
                Some(("cache", value)) => options.cache = value.into(),
                _ => return Err(wrong()),
            }
        }
        if options.photographs.is_some() && !options.datasets.contains(&"photographs".into()) {
            options.datasets.push("photographs".into());
        }
        Ok(options)
    }
}

/// Codes to train and to test on, and the number of test images.
struct Data {
    name: String,
    train: Codes,
    test: Codes,
}

fn codes(name: &str, options: &Options, store: &Store) -> Result<Data> {
    let of = |autoencoder: &dyn Autoencoder,
              greybox: &Greybox,
              dataset: &dyn Dataset,
              most: [usize; 2]| {
        Ok(Data {
            name: name.into(),
            train: Codes::of(
                autoencoder,
                greybox,
                dataset,
                Split::Train,
                most[0].min(TRAIN_IMAGES),
            )?,
            test: Codes::of(
                autoencoder,
                greybox,
                dataset,
                Split::Test,
                most[1].min(TEST_IMAGES),
            )?,
        })
    };
    let any = match options.time {
        true => [600, 60],
        false => [TRAIN_IMAGES, TEST_IMAGES],
    };
    match name {
        "digits" => {
            let digits = Digits::strokes(32, 0)?;
            let networks = DigitsNetworks::load(&digits, 0, store)?;
            of(
                &networks.autoencoder,
                &networks.classifier.at("pool")?,
                &digits,
                any,
            )
        }
        "faces" => {
            let faces = Subject::faces()?;
            let greybox = faces.network.at("embedding")?;
            of(
                faces.autoencoder.as_ref(),
                &greybox,
                faces.dataset.as_ref(),
                any,
            )
        }
        "creatures" => {
            let creatures = Subject::creatures()?;
            let greybox = creatures.network.at("fc6")?;
            of(
                creatures.autoencoder.as_ref(),
                &greybox,
                creatures.dataset.as_ref(),
                any,
            )
        }
        "photographs" => {
            let file = options.photographs.as_ref().ok_or_else(|| {
                Error::invalid("expected photographs=FILE.parquet for the photographs")
            })?;
            let images = Images::parquet(&[file], &ImageColumns::default())?;
            let subject = Subject::photographs(&images, 2500, store)?;
            let photographs = Photographs::new(&images, 64, 0)?;
            let most = [
                photographs.len(Split::Train).min(any[0]),
                photographs.len(Split::Test).min(any[1]),
            ];
            let greybox = subject.network.at("fc6")?;
            of(
                subject.autoencoder.as_ref(),
                &greybox,
                subject.dataset.as_ref(),
                most,
            )
        }
        other => Err(Error::unknown(format!(
            "expected digits, faces, creatures or photographs, found {other}"
        ))),
    }
}

/// A flow of one family with its own parameters.
enum Candidate {
    Cinn(Cinn, CinnConfig),
    Matching(FlowMatching, FlowMatchingConfig),
    Tar(TarFlow, TarFlowConfig),
}

impl Candidate {
    fn new(family: &str, data: &Data, params: &Params) -> Result<Self> {
        let (dim, condition, root) = (data.train.code(), data.train.condition(), params.root());
        let affine = CinnConfig {
            flows: 12,
            ..CinnConfig::new(dim, condition)
        };
        Ok(match family {
            "flow matching" => {
                let config = FlowMatchingConfig::new(dim, condition);
                Self::Matching(FlowMatching::new(&config, &root)?, config)
            }
            "TarFlow" => {
                let config = TarFlowConfig::new(dim, condition);
                Self::Tar(TarFlow::new(&config, &root)?, config)
            }
            "affine" | "affine (averaged)" => Self::Cinn(Cinn::new(&affine, &root)?, affine),
            _ => {
                let config = CinnConfig {
                    coupling: CouplingConfig::spline(),
                    mixing: Mixing::Lu,
                    ..affine
                };
                Self::Cinn(Cinn::new(&config, &root)?, config)
            }
        })
    }

    fn flow(&self) -> &dyn Flow {
        match self {
            Self::Cinn(t, _) => t,
            Self::Matching(t, _) => t,
            Self::Tar(t, _) => t,
        }
    }

    fn frozen(&self) -> Box<dyn Flow> {
        match self {
            Self::Cinn(t, _) => Box::new(t.detached()),
            Self::Matching(t, _) => Box::new(t.detached()),
            Self::Tar(t, _) => Box::new(t.detached()),
        }
    }

    fn fit(
        &self,
        name: &str,
        params: &Params,
        training: &TrainConfig,
        codes: &Codes,
        store: &Store,
    ) -> Result<Trained> {
        match self {
            Self::Cinn(t, config) => fit_flow(name, t, config, params, training, codes, store),
            Self::Matching(t, config) => fit_flow(name, t, config, params, training, codes, store),
            Self::Tar(t, config) => fit_flow(name, t, config, params, training, codes, store),
        }
    }
}

/// Milliseconds of a training step and of 64 samples of one z, the least of 40.
fn times(family: &str, data: &Data) -> Result<[f64; 2]> {
    let params = Params::new(0);
    let candidate = Candidate::new(family, data, &params)?;
    let flow = candidate.flow();
    let mut rng = Rng::new(0);
    let (code, z) = data.train.draw(512, &mut rng)?;
    flow.initialize(&code, Some(&z))?;
    let mut adam = Adam::named(params.trained())?.clip(Some(100.0));
    let (mut steps, mut samplings) = (Vec::new(), Vec::new());
    for i in 0..45 {
        let began = Instant::now();
        let (code, z) = data.train.draw(BATCH, &mut rng)?;
        let loss = flow.loss(&code, Some(&z), &mut rng)?;
        adam.step_at(&invariances::ops::backward(&loss)?, 1e-4)?;
        if i >= 5 {
            steps.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    let (frozen, z) = (candidate.frozen(), z.narrow(0, 0, 1)?);
    for i in 0..45 {
        let began = Instant::now();
        frozen.sample(Some(&z), 64, &mut rng)?;
        if i >= 5 {
            samplings.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    // Other work makes a time longer, never shorter.
    let least = |all: Vec<f64>| all.into_iter().fold(f64::INFINITY, f64::min);
    Ok([least(steps), least(samplings)])
}

/// The rows of a CSV file without its header; none if it does not exist.
fn rows(file: &Path) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().skip(1);
    lines
        .map(|l| l.split(',').map(String::from).collect())
        .collect()
}

/// Appends a row, with the header first if the file is new.
fn append(file: &Path, header: &str, row: &[String]) -> Result<()> {
    let mut text = std::fs::read_to_string(file).unwrap_or_else(|_| format!("{header}\n"));
    text.push_str(&row.join(","));
    text.push('\n');
    std::fs::write(file, text).map_err(|e| Error::invalid(format!("{}: {e}", file.display())))
}

const TIMES: &str = "codes,flow,step ms,64 samples ms";
const RESULTS: &str = "codes,flow,seed,steps,steps run,bits per dimension,low,high,classifier picks v,\
                       low,high,mean of v²,round trip,64 samples ms,step ms,parameters";

fn main() -> Result<()> {
    let options = Options::of(arguments())?;
    std::fs::create_dir_all(&options.out).ok();
    let store = Store::open(&options.cache);
    let (clock, table) = (options.out.join("times.csv"), options.out.join("flows.csv"));
    for name in &options.datasets {
        let data = codes(name, &options, &store)?;
        println!("{name}: codes of {} elements", data.train.code());
        for family in options.flows.iter().map(String::as_str) {
            if options.time {
                if family.ends_with("(averaged)") {
                    continue;
                }
                let [step, sampling] = times(family, &data)?;
                println!("{family}: {step:.1} ms a step, {sampling:.1} ms for 64 samples");
                let numbers = [format!("{step:.2}"), format!("{sampling:.2}")];
                append(
                    &clock,
                    TIMES,
                    &[[name.clone(), family.into()], numbers].concat(),
                )?;
                continue;
            }
            // The least of all measurements. That of affine coupling is also that with averaged weights.
            let known = rows(&clock);
            let least = |column: usize| {
                let timed = family.trim_end_matches(" (averaged)");
                let own = known
                    .iter()
                    .filter(|row| row[0] == *name && row[1] == timed);
                let times = own.filter_map(|row| row.get(column)?.parse::<f64>().ok());
                times.fold(f64::INFINITY, f64::min)
            };
            let times = [least(3), least(2)];
            if times[1].is_infinite() {
                return Err(Error::invalid(format!(
                    "no times of {family} on {name}: run with `time` first"
                )));
            }
            for seed in 0..options.seeds {
                let key = [name.clone(), family.into(), seed.to_string()];
                if rows(&table).iter().any(|row| row[..3] == key) {
                    continue;
                }
                let steps = (options.seconds * 1e3 / times[1]).round() as u64;
                let numbers = measure(family, &data, seed, steps, &store)?;
                let times = times.map(|t| format!("{t:.2}"));
                let (first, last) = numbers.split_at(numbers.len() - 1);
                let row = [&key[..], first, &times[..], last].concat();
                println!("{}", row.join(", "));
                append(&table, RESULTS, &row)?;
            }
        }
    }
    Ok(())
}

/// Trains one flow and measures it.
fn measure(family: &str, data: &Data, seed: u64, steps: u64, store: &Store) -> Result<Vec<String>> {
    let training = TrainConfig {
        steps,
        batch: BATCH,
        validate_every: Some((steps / 25).max(1)),
        patience: Some(4),
        seed,
        ..match family {
            "flow matching" => MatchingTraining::default().training,
            "affine (averaged)" => TrainConfig {
                ema: Some(0.999),
                ..CinnTraining::default().training
            },
            _ => CinnTraining::default().training,
        }
    };
    let params = store.params(seed);
    let candidate = Candidate::new(family, data, &params)?;
    let name = format!(
        "bench-{}-{}",
        data.name,
        family
            .replace(" + ", "-")
            .replace(['(', ')'], "")
            .replace(' ', "-")
    );
    let trained = candidate.fit(&name, &params, &training, &data.train, store)?;
    let t = candidate.frozen();
    let code = data.test.sample(&mut Rng::named(0, "held out"))?;
    let z = data.test.z();
    let count = code.dim(0)?;
    let mut bits = Vec::new();
    for start in (0..DENSITY_IMAGES.min(count)).step_by(50) {
        let part = |x: &Tensor| x.narrow(0, start, 50.min(count - start));
        bits.extend(values(
            &t.bits_per_dimension(&part(&code)?, Some(&part(&z)?))?,
        )?);
    }
    let bits = Resampled::mean(&bits, 0).estimate();
    let config = CertificateConfig {
        ranked: 8,
        control_steps: 0,
        ..CertificateConfig::brief()
    };
    let certificate = Certificate::with_codes(t.as_ref(), &code, &z, &config)?;
    let (tests, round_trip) = (certificate.tests(), certificate.round_trip());
    let picks = tests.accuracy().estimate();
    let three = |x: f64| format!("{x:.4}");
    Ok(vec![
        steps.to_string(),
        trained.steps.to_string(),
        three(bits.mean),
        three(bits.low),
        three(bits.high),
        three(picks.mean),
        three(picks.low),
        three(picks.high),
        three(tests.mean_square()),
        format!("{:.1e}", round_trip.codes.max(round_trip.samples)),
        params.count().to_string(),
    ])
}
