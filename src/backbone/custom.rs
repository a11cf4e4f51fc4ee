//! [`Custom`] makes a network of named layers from candle modules and closures.

use super::first_gradient::{Checked, checked};
use super::gradients::checking;
use super::network::{one_by_one, with_aliases};
use super::{Network, Preprocess};
use crate::ops::{Conv2d, ConvConfig, ConvTranspose2d, Linear, Placement};
use crate::outline::{parameters_of, shows_outline};
use crate::{Error, Outline, Result, outline};
use candle_core::Tensor;
use candle_nn::Module;
use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

/// A network of your own, or from candle-transformers: candle modules and closures as named
/// layers.
///
/// Every candle [`Module`] can be a layer, including a closure from tensor to tensor. A model
/// that hides its layers is one single layer; then there is Φ, but no Ψ. The type has a name and
/// owns its modules. A variable of this type can therefore be kept between notebook cells, which
/// the modules' own closures cannot.
///
/// ```
/// use invariances::backbone::{Custom, Network};
/// use invariances::candle_core::{DType, Device, Tensor};
/// use invariances::candle_nn::{Linear, Module};
///
/// let weight = Tensor::ones((2, 12), DType::F32, &Device::Cpu)?;
/// let linear = Linear::new(weight, None);
/// let network = Custom::new("mine")
///     .layer("flat", |x: &Tensor| x.flatten_from(1))
///     .layer("relu", |x: &Tensor| x.relu())
///     .layer("fc", linear);
/// let x = Tensor::ones((1, 3, 2, 2), DType::F32, &Device::Cpu)?;
/// assert_eq!(network.forward(&x)?.to_vec2::<f32>()?, [[12.0, 12.0]]);
/// assert_eq!(network.table(2)?.height(), 3);
/// assert_eq!(
///     network.to_string(),
///     "\
/// mine
///   flat: closure
///   relu: closure
///   fc: Linear(in_features=12, out_features=2, bias=False)  24
/// Parameters: 24"
/// );
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Gradients
///
/// Some operations of candle have a wrong or partly missing gradient and return it without an
/// error. Therefore the first gradient through layers of this network is compared with a numeric
/// gradient. If it is wrong, the backward pass returns an error with the name of the layer and
/// the operations to use instead. [`Network::check_gradients`] describes the method and its cost.
/// The check runs once for each layer, clones included; forward passes cost nothing. A notice is
/// printed if a gradient cannot be checked: with random layers (dropout), in half precision, or
/// if the numeric gradient is too uncertain. [`Custom::trust_gradients`] turns the check off.
///
/// A model of candle-transformers can be a layer as well. Its layer norm and softmax have no
/// backward pass; declare this with [`Custom::without_gradient`]:
///
/// ```no_run
/// use invariances::backbone::{Custom, Preprocess};
/// use invariances::candle_core::{DType, Device, Tensor};
/// use invariances::candle_nn::VarBuilder;
/// use invariances::candle_transformers::models::clip::vision_model::{ClipVisionConfig, ClipVisionTransformer};
///
/// let path = invariances::hub::Hub::open()?.model("openai/clip-vit-base-patch32")?.file("model.safetensors")?;
/// // SAFETY: the file is not modified while it is mapped.
/// let weights = unsafe { VarBuilder::from_mmaped_safetensors(&[path], DType::F32, &Device::Cpu)? };
/// let model = ClipVisionTransformer::new(weights.pp("vision_model"), &ClipVisionConfig::vit_base_patch32())?;
/// let tokens = Custom::new("clip, block 5")
///     .layer("tokens", move |x: &Tensor| Ok(model.output_hidden_states(x)?.swap_remove(5)))
///     .with_preprocess(&Preprocess::clip(224))
///     .without_gradient("candle-nn's layer norm has no backward pass");
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// In [`super::transformer`], the same checkpoints have named blocks, a Ψ and gradients.
#[derive(Clone)]
pub struct Custom {
    name: String,
    layers: Vec<(String, Arc<dyn Module + Send + Sync>)>,
    /// The descriptions of the layers, without their names.
    outlines: Vec<Outline>,
    aliases: Vec<(String, String)>,
    output: Option<String>,
    preprocess: Preprocess,
    placement: Option<Placement>,
    no_gradient: Option<String>,
    trusted: bool,
    checked: Arc<Checked>,
}

shows_outline!(Custom);

/// Describes a module as far as its type is known here.
fn describe<M: Module + 'static>(module: &M) -> Outline {
    let any: &dyn Any = module;
    let of = |text: String, weight: &Tensor, bias: Option<&Tensor>| {
        Outline::new(text).with_parameters(parameters_of([weight].into_iter().chain(bias)))
    };
    if let Some(l) = any.downcast_ref::<candle_nn::Linear>() {
        return of(
            outline::linear(l.weight(), l.bias().is_some()),
            l.weight(),
            l.bias(),
        );
    }
    if let Some(l) = any.downcast_ref::<candle_nn::Conv2d>() {
        let (groups, dilation) = (l.config().groups, l.config().dilation);
        let config = ConvConfig {
            stride: l.config().stride,
            padding: (l.config().padding, l.config().padding),
            ..ConvConfig::default()
        };
        let text = match (groups, dilation) {
            (1, 1) => outline::convolution(l.weight(), &config, l.bias().is_some(), false),
            _ => {
                let dims = l.weight().dims();
                let (inputs, outputs) = (dims[1] * groups, dims[0]);
                format!("Conv2d({inputs}, {outputs}, groups={groups}, dilation={dilation})")
            }
        };
        return of(text, l.weight(), l.bias());
    }
    if let Some(activation) = any.downcast_ref::<candle_nn::Activation>() {
        return Outline::new(format!("{activation:?}"));
    }
    if let Some(l) = any.downcast_ref::<Linear>() {
        return of(l.to_string(), l.weight(), l.bias());
    }
    if let Some(l) = any.downcast_ref::<Conv2d>() {
        return of(l.to_string(), l.weight(), l.bias());
    }
    if let Some(l) = any.downcast_ref::<ConvTranspose2d>() {
        return of(l.to_string(), l.weight(), l.bias());
    }
    let outline = Outline::of_type::<M>();
    // A module that stores nothing has no parameters: a closure without captured variables.
    match size_of::<M>() {
        0 => outline.with_parameters(0),
        _ => outline,
    }
}

impl Custom {
    /// Creates a network without layers.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            layers: Vec::new(),
            outlines: Vec::new(),
            aliases: Vec::new(),
            output: None,
            preprocess: Preprocess::none(),
            placement: None,
            no_gradient: None,
            trusted: false,
            checked: Arc::default(),
        }
    }

    /// Adds a layer at the end. If the name exists already, it refers to the first layer with
    /// this name.
    pub fn layer(mut self, name: &str, module: impl Module + Send + Sync + 'static) -> Self {
        self.outlines.push(describe(&module));
        self.layers.push((name.into(), Arc::new(module)));
        // The results of the check belong to the previous layers, which a clone may still have.
        self.checked = Arc::default();
        self
    }

    /// Adds another name of a layer.
    pub fn alias(mut self, other: &str, layer: &str) -> Self {
        self.aliases.push((other.into(), layer.into()));
        self
    }

    /// Sets the layer whose output is f(x). The default is the last layer.
    pub fn output_at(mut self, layer: &str) -> Self {
        self.output = Some(layer.into());
        self
    }

    /// Sets the preprocessing of the images.
    pub fn with_preprocess(mut self, preprocess: &Preprocess) -> Self {
        self.preprocess = preprocess.clone();
        self
    }

    /// Declares the device and the number type of the modules' parameters. Images are then moved
    /// and converted to them. Without this, images are used as they are.
    ///
    /// ```
    /// use invariances::backbone::{Custom, Network};
    /// use invariances::candle_core::{DType, Device, Tensor};
    /// use invariances::candle_nn::Linear;
    /// use invariances::ops::Placement;
    ///
    /// let weight = Tensor::ones((2, 12), DType::F64, &Device::Cpu)?;
    /// let placement = Placement::of(&weight);
    /// let network = Custom::new("mine")
    ///     .layer("flat", |x: &Tensor| x.flatten_from(1))
    ///     .layer("fc", Linear::new(weight, None))
    ///     .with_placement(&placement);
    /// let x = Tensor::ones((1, 3, 2, 2), DType::F32, &Device::Cpu)?;
    /// assert_eq!(network.forward(&x)?.to_vec2::<f64>()?, [[12.0, 12.0]]);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    pub fn with_placement(mut self, placement: &Placement) -> Self {
        self.placement = Some(placement.clone());
        self
    }

    /// Declares that no correct gradient passes through the network, and why. Computing a
    /// gradient then returns an error instead of a wrong result.
    pub fn without_gradient(mut self, why: &str) -> Self {
        self.no_gradient = Some(why.into());
        self
    }

    /// Turns off the check of the first gradient, for layers whose gradient is meant to differ
    /// from the derivative (a straight-through estimator, gradient reversal, guided
    /// backpropagation).
    ///
    /// ```
    /// use invariances::{backbone::{Custom, Network}, candle_core::{Device, Tensor, Var}};
    /// // Rounds, with the gradient of the identity.
    /// let round = |x: &Tensor| x + (x.round()? - x)?.detach();
    /// let network = Custom::new("rounds").layer("round", round).trust_gradients();
    /// let x = Var::new(&[[[[0.4f32]], [[1.2]], [[-0.7]]]], &Device::Cpu)?;
    /// let gradients = network.forward(&x)?.sum_all()?.backward()?;
    /// assert_eq!(gradients.get(&x).unwrap().flatten_all()?.to_vec1::<f32>()?, [1.0; 3]);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    pub fn trust_gradients(mut self) -> Self {
        self.trusted = true;
        self
    }

    /// The state of the check of its gradients.
    pub(super) fn checked(&self) -> &Checked {
        &self.checked
    }
}

impl Network for Custom {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn layers(&self) -> Vec<String> {
        self.layers.iter().map(|(name, _)| name.clone()).collect()
    }

    fn layer(&self, index: usize, x: &Tensor) -> Result<Tensor> {
        match self.layers.get(index) {
            Some((_, module)) => Ok(module.forward(x)?),
            None => Err(Error::unknown(format!(
                "no layer {index} in {}, which has {} layers",
                self.name,
                self.layers.len()
            ))),
        }
    }

    fn run(&self, x: &Tensor, layers: Range<usize>) -> Result<Tensor> {
        let y = one_by_one(self, x, layers.clone())?;
        if self.trusted || layers.is_empty() || !x.track_op() || checking() {
            return Ok(y);
        }
        checked(self, x, y, layers)
    }

    fn aliases(&self) -> Vec<(String, String)> {
        self.aliases.clone()
    }

    fn output(&self) -> usize {
        let last = self.layers.len().saturating_sub(1);
        let output = self.output.as_ref();
        output.map_or(last, |name| self.position(name).unwrap_or(last))
    }

    fn preprocess(&self) -> Preprocess {
        self.preprocess.clone()
    }

    fn placement(&self) -> Option<Placement> {
        self.placement.clone()
    }

    fn outline(&self) -> Outline {
        let layers = self.layers.iter().zip(&self.outlines);
        let layers = layers.map(|((name, _), l)| l.clone().named(&with_aliases(self, name)));
        Outline::new(self.name()).with_parts(layers)
    }

    fn no_gradient(&self) -> Option<String> {
        self.no_gradient.clone()
    }
}
