//! [`network_digest`], an identifier of what a network computes.

use crate::Result;
use crate::backbone::Network;
use crate::ops::values;
use candle_core::Tensor;

/// Returns the network's name and a hash (16 hexadecimal digits of BLAKE3) of the outputs of all
/// its layers for `images` (batch, 3, h, w): `resnet 0f3a…`. It tells networks apart whose layers
/// have the same names, also networks of closures, whose weights are not accessible.
///
/// Use several images of the data under study, so that every unit is active for some of them. The
/// hash covers every bit, so it also differs between devices and number types. A network with
/// random outputs, such as active dropout, has another digest each time.
///
/// ```
/// use invariances::{backbone::squeezenet_small, interpret::network_digest, prelude::*};
/// let network = |seed| squeezenet_small(10, &Params::new(seed).root());
/// let images = Digits::strokes(32, 0)?.batch(Split::Train, 0, 4)?.images;
/// let digest = network_digest(&network(0)?, &images)?;
/// assert_eq!(digest, network_digest(&network(0)?, &images)?);
/// assert_ne!(digest, network_digest(&network(1)?, &images)?);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// As [`Network::encode_all`].
pub fn network_digest(network: &dyn Network, images: &Tensor) -> Result<String> {
    let images = images.detach();
    let name = network.name();
    let layers = network.layers();
    let names: Vec<&str> = layers.iter().map(String::as_str).collect();
    let mut outputs = network.encode_all(&images, &names)?;
    // f(x): the output need not be the last layer.
    outputs.push(network.forward(&images)?);
    let mut hash = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(name.as_bytes());
    for (layer, output) in names.iter().chain(&["f(x)"]).zip(&outputs) {
        add(format!("{layer} {:?}", output.dims()).as_bytes());
        let mut bytes = Vec::new();
        for value in values(&output.detach())? {
            bytes.extend(value.to_le_bytes());
        }
        add(&bytes);
    }
    Ok(format!("{name} {}", &hash.finalize().to_hex()[..16]))
}
