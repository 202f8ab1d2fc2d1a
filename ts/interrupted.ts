import { UblkError } from './errors.js'

/**
 * The reason of the signals that fire when this process is asked to end. An action that ends for it rejects with its own error,
 * if that says more, such as what is left undone.
 */
export const INTERRUPTED: UblkError = new UblkError('cancelled', 'interrupted')
