//! The [`Network`] trait: a chain of named layers whose outputs can be computed, compared and
//! described.

use super::gradients::{self, GradientCheck, Outcome};
use super::{Greybox, Preprocess};
use crate::ops::Placement;
use crate::{Error, Outline, Result};
use candle_core::{D, DType, Device, Tensor};
use invariances_core::names::nearest;
use polars::prelude::{Column, DataFrame};
use std::ops::Range;
use std::sync::Arc;

/// A network as a chain of named layers.
///
/// Images may be on any device and have any floating-point type: they are moved and converted to
/// those of the network's parameters ([`Network::placement`]), and the results stay there.
///
/// Three functions are enough to implement it for your own network. With [`super::Custom`], which
/// takes candle modules and closures, no implementation is needed. All other functions are
/// provided.
///
/// ```
/// use invariances::{Result, backbone::Network, candle_core::{DType, Device, Tensor}};
///
/// struct Halves;
/// impl Network for Halves {
///     fn name(&self) -> String {
///         "halves".into()
///     }
///     fn layers(&self) -> Vec<String> {
///         ["half", "sum"].map(String::from).into()
///     }
///     fn layer(&self, index: usize, x: &Tensor) -> Result<Tensor> {
///         Ok(match index {
///             0 => (x * 0.5)?,
///             _ => x.flatten_from(1)?.sum_keepdim(1)?,
///         })
///     }
/// }
///
/// let x = Tensor::ones((1, 3, 2, 2), DType::F32, &Device::Cpu)?;
/// assert_eq!(Halves.forward(&x)?.to_vec2::<f32>()?, [[6.0]]);
/// assert_eq!(Halves.encode(&x, "half")?.dims(), [1, 3, 2, 2]);
/// # Ok::<(), invariances::Error>(())
/// ```
pub trait Network: Send + Sync {
    /// The network's name.
    fn name(&self) -> String;

    /// The names of its layers, from image to output.
    fn layers(&self) -> Vec<String>;

    /// Applies one layer to the output of the layer before it, or to preprocessed images if it is
    /// the first layer.
    ///
    /// # Errors
    /// [`Error::Shape`] if x does not fit the layer.
    fn layer(&self, index: usize, x: &Tensor) -> Result<Tensor>;

    /// Other names of layers: pairs of the alias and the layer's name.
    fn aliases(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// The index of the layer whose output is f(x). Layers after it (a softmax) are not part of
    /// f.
    fn output(&self) -> usize {
        self.layers().len().saturating_sub(1)
    }

    /// The preprocessing of images before the first layer.
    fn preprocess(&self) -> Preprocess {
        Preprocess::none()
    }

    /// The device and the number type of the parameters. Images are moved and converted to them
    /// before the preprocessing. `None`: images are used as they are.
    fn placement(&self) -> Option<Placement> {
        None
    }

    /// Applies several layers in sequence. The result must be identical to that of
    /// [`Network::layer`].
    ///
    /// # Errors
    /// As [`Network::layer`].
    fn run(&self, x: &Tensor, layers: Range<usize>) -> Result<Tensor> {
        one_by_one(self, x, layers)
    }

    /// The shape of each layer's output for one preprocessed image (channels, height, width),
    /// without the batch. By default an image of zeros is passed through the network to find
    /// them. It is f32 on the CPU if the network has no [`Network::placement`].
    ///
    /// # Errors
    /// [`Error::Shape`] if the network cannot process images of this size. Errors of candle modules
    /// are [`Error::Tensor`].
    fn shapes(&self, image: [usize; 3]) -> Result<Vec<Vec<usize>>> {
        let [c, h, w] = image;
        let at = self.placement().unwrap_or(Placement {
            device: Device::Cpu,
            dtype: DType::F32,
        });
        let mut x = Tensor::zeros((1, c, h, w), at.dtype, &at.device)?;
        let mut shapes = Vec::new();
        for index in 0..self.layers().len() {
            x = self.run(&x, index..index + 1)?.detach();
            shapes.push(x.dims().get(1..).unwrap_or_default().to_vec());
        }
        Ok(shapes)
    }

    /// The number of trainable parameters of each layer, or `None` if it is not known.
    fn parameters(&self) -> Option<Vec<usize>> {
        None
    }

    /// Describes the layers for `Display`: one part per layer, with its name, type, sizes and
    /// number of parameters as far as they are known. By default these are the names and
    /// [`Network::parameters`].
    fn outline(&self) -> Outline {
        let counts = self.parameters();
        let names = self.layers().into_iter().enumerate();
        let layers = names.map(|(index, name)| {
            let count = counts.as_ref().and_then(|c| c.get(index).copied());
            match count {
                Some(count) => Outline::new(name).with_parameters(count),
                None => Outline::new(name).with_unknown_parameters(),
            }
        });
        Outline::new(self.name()).with_parts(layers)
    }

    /// The reason why no gradient passes through this network, if that is the case.
    fn no_gradient(&self) -> Option<String> {
        None
    }

    /// Compares the gradient of f with respect to images (batch, 3, h, w) with a numeric
    /// gradient, at images near the first two.
    ///
    /// Several operations of candle return a wrong or partly missing gradient without an error,
    /// among them candle-nn's `layer_norm` and `softmax_last_dim` and candle's `max_pool2d`. This
    /// check finds errors of more than 5 % in f32 or f64, and names the layer. A
    /// [`super::Custom`] runs it automatically when its first gradient is computed. For a network
    /// that implements this trait by hand, call it once.
    ///
    /// The derivative along 6 seeded random directions is compared with central differences. As a
    /// rule this costs 15 forward passes and one backward pass of two images. It costs at most
    /// 123 forward passes if the first step of the differences is not precise enough. Only if
    /// that fails are the layers examined one by one, at the same cost again. In a deep network
    /// with ReLUs an error below about 20 % may not be found.
    ///
    /// ```
    /// use invariances::backbone::{Custom, GradientVerdict, Network};
    /// use invariances::candle_core::Tensor;
    /// use invariances::ops::{PoolConfig, Rng, max_pool2d};
    ///
    /// let x = Rng::new(0).normal((2, 3, 8, 8), &invariances::candle_core::Device::Cpu)?;
    /// // In candle, the gradient of max pooling is divided by the area of the window.
    /// let network = Custom::new("mine").layer("pool", |x: &Tensor| x.max_pool2d(2));
    /// let error = network.check_gradients(&x).unwrap_err().to_string();
    /// assert!(error.contains("layer \"pool\"") && error.contains("ops::{max_pool2d"));
    ///
    /// # use invariances::candle_core;
    /// let pool = |x: &Tensor| {
    ///     max_pool2d(x, PoolConfig::new(2, 2)).map_err(candle_core::Error::wrap)
    /// };
    /// let network = Custom::new("mine").layer("pool", pool);
    /// assert_eq!(network.check_gradients(&x)?.verdict, GradientVerdict::Agrees);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unsupported`] with the layers whose gradient is wrong or missing, and what to use
    /// instead; also as [`Network::forward`].
    fn check_gradients(&self, images: &Tensor) -> Result<GradientCheck> {
        let x = self.preprocess().apply(&placed(self, &images.detach())?)?;
        match gradients::examine(self, &x, 0..self.output() + 1)? {
            Outcome::Fine(check) => Ok(check),
            Outcome::Faulty(_, why) => Err(Error::unsupported(why)),
        }
    }

    /// The index of the layer with this name or alias.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown layer, with the nearest name and all existing names.
    fn position(&self, layer: &str) -> Result<usize> {
        let layers = self.layers();
        let aliases = self.aliases();
        let alias = aliases.iter().find(|(alias, _)| alias == layer);
        let name = alias.map_or(layer, |(_, name)| name);
        if let Some(found) = layers.iter().position(|l| l == name) {
            return Ok(found);
        }
        let known: Vec<&str> = aliases
            .iter()
            .map(|(alias, _)| alias)
            .chain(&layers)
            .map(String::as_str)
            .collect();
        let advice = match nearest(layer, &known) {
            Some(near) => format!("; did you mean {near:?}?"),
            None => ".".into(),
        };
        Err(Error::unknown(format!(
            "no layer {layer:?} in {}{advice} Available layers: {}",
            self.name(),
            known.join(", ")
        )))
    }

    /// f(x): the output (logits, for a classifier) of images (batch, 3, h, w) in [−1, 1]. It is
    /// on the network's device.
    ///
    /// # Errors
    /// [`Error::Shape`] if the images do not fit the network.
    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let x = self.preprocess().apply(&placed(self, images)?)?;
        self.run(&x, 0..self.output() + 1)
    }

    /// z = Φ(x): the output of a layer for images (batch, 3, h, w) in [−1, 1].
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown layer, with the existing names.
    fn encode(&self, images: &Tensor, layer: &str) -> Result<Tensor> {
        let end = self.position(layer)?;
        let x = self.preprocess().apply(&placed(self, images)?)?;
        self.run(&x, 0..end + 1)
    }

    /// Ψ(z): applies the rest of the network to a layer's output. Returns z itself if the layer
    /// is the output layer or comes after it.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown layer, with the existing names.
    fn decode(&self, z: &Tensor, layer: &str) -> Result<Tensor> {
        let end = self.position(layer)?;
        self.run(&placed(self, z)?, end + 1..self.output().max(end) + 1)
    }

    /// The outputs of several layers in one pass, in the order of `layers`.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown layer, with the existing names.
    fn encode_all(&self, images: &Tensor, layers: &[&str]) -> Result<Vec<Tensor>> {
        let places: Vec<usize> = layers
            .iter()
            .map(|l| self.position(l))
            .collect::<Result<_>>()?;
        let mut order = places.clone();
        order.sort_unstable();
        order.dedup();
        let mut x = self.preprocess().apply(&placed(self, images)?)?;
        let (mut from, mut found) = (0, Vec::new());
        for place in order {
            x = self.run(&x, from..place + 1)?;
            from = place + 1;
            found.push((place, x.clone()));
        }
        let of = |place: &usize| {
            let result = found.iter().find(|(p, _)| p == place);
            // `find` always succeeds: the loop above visited every layer.
            result.map_or_else(|| x.clone(), |(_, z)| z.clone())
        };
        Ok(places.iter().map(of).collect())
    }

    /// Splits the network at a layer, given by its published name or the paper's name: z = Φ(x)
    /// is the output of this layer. Every question in [`crate::interpret`] takes such a
    /// [`Greybox`]. It holds a clone of the network, which shares the parameters
    /// ([`super::Backbone`], [`super::Custom`]). For a type that is not `Clone`, use
    /// [`Greybox::shared`].
    ///
    /// ```
    /// use invariances::{backbone::{Network, squeezenet_small}, ops::{Params, Rng}};
    /// let params = Params::new(0);
    /// let network = squeezenet_small(10, &params.root())?;
    /// let x = Rng::new(1).normal((2, 3, 32, 32), params.device())?;
    /// let pool = network.at("pool")?;
    /// assert_eq!(pool.encode(&x)?.dims(), [2, 128]);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown layer, with the existing names; [`Error::Invalid`] if two
    /// layers have the same name.
    fn at(&self, layer: &str) -> Result<Greybox>
    where
        Self: Sized + Clone + 'static,
    {
        Greybox::new(self, layer)
    }

    /// Same as [`Network::at`], for several layers. [`Greybox::encode_all`] computes their
    /// outputs in one pass.
    ///
    /// # Errors
    /// As [`Network::at`].
    fn at_each(&self, layers: &[impl AsRef<str>]) -> Result<Vec<Greybox>>
    where
        Self: Sized + Clone + 'static,
    {
        let network: Arc<dyn Network> = Arc::new(self.clone());
        let each = layers.iter();
        each.map(|layer| Greybox::shared(network.clone(), layer.as_ref()))
            .collect()
    }

    /// The predicted class of each image, u32 (batch,), without a graph.
    ///
    /// # Errors
    /// As [`Network::forward`].
    fn classify(&self, images: &Tensor) -> Result<Tensor> {
        Ok(self.forward(&images.detach())?.argmax(D::Minus1)?)
    }

    /// Describes each layer before anything runs. If the network resizes images to its own size,
    /// that size is used; otherwise `size` × `size` pixels.
    ///
    /// # Errors
    /// As [`Network::shapes`].
    fn describe(&self, size: usize) -> Result<Vec<LayerInfo>> {
        let size = self.preprocess().size.unwrap_or(size);
        let shapes = self.shapes([3, size, size])?;
        let aliases = self.aliases();
        let counts = self.parameters();
        let each = self.layers().into_iter().zip(shapes).enumerate();
        let described = each.map(|(index, (name, shape))| LayerInfo {
            aliases: aliases
                .iter()
                .filter(|(_, n)| *n == name)
                .map(|(alias, _)| alias.clone())
                .collect(),
            parameters: counts.as_ref().and_then(|c| c.get(index).copied()),
            name,
            shape,
        });
        Ok(described.collect())
    }

    /// [`Network::describe`] as a data frame with the columns layer, also called, shape, numbers
    /// (of one image), parameters.
    ///
    /// # Errors
    /// As [`Network::shapes`].
    fn table(&self, size: usize) -> Result<DataFrame> {
        let layers = self.describe(size)?;
        let text = |f: &dyn Fn(&LayerInfo) -> String| layers.iter().map(f).collect::<Vec<_>>();
        let shape = |l: &LayerInfo| {
            let sides: Vec<String> = l.shape.iter().map(ToString::to_string).collect();
            sides.join(" × ")
        };
        let numbers = |l: &LayerInfo| l.shape.iter().product::<usize>() as u64;
        let columns = vec![
            Column::new("layer".into(), text(&|l| l.name.clone())),
            Column::new("also called".into(), text(&|l| l.aliases.join(", "))),
            Column::new("shape".into(), text(&shape)),
            Column::new(
                "numbers".into(),
                layers.iter().map(numbers).collect::<Vec<u64>>(),
            ),
            Column::new(
                "parameters".into(),
                layers
                    .iter()
                    .map(|l| l.parameters.map(|p| p as u64))
                    .collect::<Vec<Option<u64>>>(),
            ),
        ];
        Ok(DataFrame::new_infer_height(columns)?)
    }
}

/// Moves a tensor to the network's device and converts it to its number type, if they are known.
pub(super) fn placed<N: Network + ?Sized>(network: &N, x: &Tensor) -> Result<Tensor> {
    match network.placement() {
        Some(placement) => placement.take(x),
        None => Ok(x.clone()),
    }
}

/// The device of a network's parameters, or that of `x` if the network does not report one.
pub(crate) fn device_of(network: &dyn Network, x: &Tensor) -> Device {
    let placement = network.placement();
    placement.map_or_else(|| x.device().clone(), |p| p.device)
}

/// Rows `start` to `start + count` of `x` on a device, in the number type of `x`.
///
/// A view is copied before it is moved to another device: candle would move all rows of the tensor
/// that it belongs to.
pub(crate) fn rows_on(device: &Device, x: &Tensor, start: usize, count: usize) -> Result<Tensor> {
    let rows = x.narrow(0, start, count)?;
    Ok(match rows.device().same_device(device) {
        true => rows,
        false => rows.force_contiguous()?.to_device(device)?,
    })
}

/// Returns a layer's name with its aliases: `features.0 (conv1)`.
pub(super) fn with_aliases<N: Network + ?Sized>(network: &N, layer: &str) -> String {
    let aliases = network.aliases().into_iter();
    let own: Vec<String> = aliases
        .filter(|(_, name)| name == layer)
        .map(|(alias, _)| alias)
        .collect();
    match own.is_empty() {
        true => layer.into(),
        false => format!("{layer} ({})", own.join(", ")),
    }
}

/// Applies layers in sequence, and adds the layer's name to an error.
pub(super) fn one_by_one<N: Network + ?Sized>(
    network: &N,
    x: &Tensor,
    layers: Range<usize>,
) -> Result<Tensor> {
    layers.into_iter().try_fold(x.clone(), |x, index| {
        network.layer(index, &x).map_err(|e| {
            let name = network.layers().get(index).cloned().unwrap_or_default();
            in_layer(&name, &network.name(), e)
        })
    })
}

/// Adds the names of the layer and of the network to an error. The kind stays the same for the
/// errors of a layer; an error of any other kind becomes [`Error::Invalid`].
pub(super) fn in_layer(layer: &str, network: &str, error: Error) -> Error {
    let message = format!("layer {layer} of {network}: {error}");
    match error {
        Error::Shape(_) => Error::shape(message),
        Error::Unknown(_) => Error::unknown(message),
        Error::Unsupported(_) => Error::unsupported(message),
        Error::Tensor(_) => Error::Tensor(candle_core::Error::Msg(message)),
        _ => Error::invalid(message),
    }
}

/// The description of a layer before it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// Its published name.
    pub name: String,
    /// Its other names, including the paper's.
    pub aliases: Vec<String>,
    /// The shape of its output for one image.
    pub shape: Vec<usize>,
    /// The number of its trainable parameters, if known.
    pub parameters: Option<usize>,
}
