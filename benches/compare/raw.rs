//! Raw results, every single one: written for programs, and read again to write about them later.

use serde_json::{Value, json};

use crate::Outcome;
use crate::about::About;
use crate::loads::{self, Sample};
use crate::metrics::{self, Values};
use crate::proxies::Kind;

/// Every single result.
pub fn write(about: &About, samples: &[Sample]) -> Value {
    let about: serde_json::Map<String, Value> =
        about.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let results: Vec<Value> = samples
        .iter()
        .map(|sample| {
            let values = sample.values.as_ref().map(Vec::as_slice).unwrap_or_default();
            let values: Vec<Value> = values
                .iter()
                .map(|(metric, value)| json!({"metric": metric.name, "unit": metric.unit, "value": value}))
                .collect();
            let void = sample.values.as_ref().err();
            json!({"load": sample.load, "proxy": sample.kind.name(), "round": sample.round + 1, "values": values, "void": void})
        })
        .collect();
    json!({"about": about, "results": results})
}

/// What was written once. Of metrics that differ only in what the design demands, any is taken: demands are not read back.
pub fn read(text: &str) -> Outcome<(About, Vec<Sample>)> {
    let value: Value = serde_json::from_str(text)?;
    let about = value["about"].as_object().ok_or("no `about`")?;
    let about = about.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()));
    let results = value["results"].as_array().ok_or("no `results`")?;
    let samples = results.iter().map(|it| sample(it).ok_or_else(|| format!("cannot read {it}").into()));
    Ok((about.collect(), samples.collect::<Outcome<Vec<Sample>>>()?))
}

fn sample(result: &Value) -> Option<Sample> {
    let load = loads::named(result["load"].as_str()?).ok()?.name;
    let kind = Kind::ALL.into_iter().find(|kind| Some(kind.name()) == result["proxy"].as_str())?;
    let round = usize::try_from(result["round"].as_u64()?).ok()?.checked_sub(1)?;
    let one = |it: &Value| Some((metrics::named(it["metric"].as_str()?, it["unit"].as_str()?)?, it["value"].as_f64()?));
    let values = match result["void"].as_str() {
        Some(why) => Err(why.to_owned()),
        None => Ok(result["values"].as_array()?.iter().map(one).collect::<Option<Values>>()?),
    };
    Some(Sample { load, kind, round, values })
}
